"""Timelines and operator graphs, drawn with matplotlib (the extra ``plot``)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hios_tvm.report.layout import Layout, Point, layered_layout
from hios_tvm.report.timeline import OperatorView, Row, Timeline, short_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (
    "#4477aa", "#cc6677", "#228833", "#b88a2b", "#7a5bb0", "#2a9d8f", "#a0522d", "#707070",
)  # fmt: skip
_LIGHT_TEXT = "#ffffff"
_POINTS = 72  # in an inch
_MOST_PIXELS = 12_000  # a side; what viewers open without trouble


@dataclass(frozen=True)
class Theme:
    """Colours of everything but devices: text and lines, faint lines, the background, copies."""

    ink: str
    faint: str
    paper: str
    copy: str


PAPER = Theme(ink="#222222", faint="#d5d5d5", paper="#ffffff", copy="#999999")


def draw_timelines(
    view: OperatorView, timelines: Mapping[str, Timeline], theme: Theme = PAPER
) -> Figure:
    """Draw timelines one above the other on one time axis: a row per stream, transfers as arrows.

    Parameters
    ----------
    view : OperatorView
        The operators; each bar has the number of its operator, where there is room.
    timelines
        At least one, by the title of its panel.
    """
    from matplotlib.figure import Figure

    rows = {row: i for i, row in enumerate(view.rows)}
    height = 0.55 * len(rows) + 0.45
    figure = Figure(
        figsize=(16, len(timelines) * height + 0.75), layout="constrained", facecolor=theme.paper
    )
    panels = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
    end_ms = max(timeline.makespan_ms for timeline in timelines.values()) or 1.0
    for axes, (title, timeline) in zip(panels, timelines.items(), strict=True):
        _style(axes, theme)
        style: dict[str, Any] = {"loc": "left", "fontsize": 11, "fontweight": "bold"}
        axes.set_title(_printable(title), color=theme.ink, parse_math=False, **style)
        axes.set_yticks(range(len(rows)))
        axes.set_yticklabels([_row_label(row, view) for row in rows], parse_math=False)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(-0.005 * end_ms, 1.01 * end_ms)
        _draw_bars(axes, view, rows, timeline, theme, 14.5 / end_ms)
        for transfer in timeline.transfers:
            src, dst = rows[transfer.src], rows[transfer.dst]
            side = 0.36 if dst > src else -0.36
            _arrow(axes, (transfer.start_ms, src + side), (transfer.end_ms, dst - side), theme.ink)
        axes.axvline(timeline.makespan_ms, color=theme.ink, linewidth=1, linestyle=(0, (4, 3)))
    panels[-1].set_xlabel("milliseconds", color=theme.ink)
    return figure


def draw_graph(
    view: OperatorView, milliseconds: Mapping[str, float], theme: Theme = PAPER
) -> Figure:
    """Draw the operator graph from top to bottom, each operator in the colour of its device.

    Edges between devices are drawn dashed; `milliseconds` says what stands below a name.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path

    layout = layered_layout(view.in_order, [(edge.src, edge.dst) for edge in view.edges])
    step_x, step_y = 1.42, 0.62  # inches
    width, height = (layout.width + 1.1) * step_x, layout.height * step_y + 0.6
    figure = Figure(figsize=(max(width, 5.0), height), facecolor=theme.paper)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0 - 0.5 / height))
    axes.set_axis_off()
    middle = layout.width / 2
    half = max(width, 5.0) / step_x / 2
    axes.set_xlim(middle - half, middle + half)
    axes.set_ylim(layout.height - 0.4, -0.6)
    for points, crosses in _segments(view, layout).items():
        axes.add_patch(
            PathPatch(
                Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]),
                facecolor="none",
                edgecolor=theme.ink,
                alpha=0.9 if crosses else 0.45,
                linewidth=1.1 if crosses else 0.8,
                linestyle=(0, (3, 2)) if crosses else "solid",
            )
        )
    for name, node in view.nodes.items():
        x, y = layout.position[name]
        box = FancyBboxPatch(
            (x - 0.46, y - 0.27),
            0.92,
            0.54,
            boxstyle="round,pad=0,rounding_size=0.07",
            mutation_aspect=step_x / step_y,
            facecolor=_colour(view, node.row),
            edgecolor=theme.paper,
            linewidth=1,
        )
        axes.add_patch(box)
        text = f"{node.number}  {_printable(short_label(name))}"
        if name in milliseconds:
            text += f"\n{milliseconds[name]:.3g} ms"
        axes.text(
            x, y, text, ha="center", va="center", color=_LIGHT_TEXT, fontsize=6.4, parse_math=False
        )
    _legend(figure, view, theme)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """Return a figure as ``svg`` or ``png``; equal figures give equal bytes."""
    file = io.BytesIO()
    with _quiet():
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
        dots = min(150.0, _MOST_PIXELS / max(figure.get_size_inches()))
        figure.savefig(file, format=kind, dpi=dots, facecolor="auto", metadata=metadata)
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep text as text in SVG, and say nothing of letters that the font lacks."""
    import matplotlib

    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hios-tvm"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.ink, length=0, labelbottom=True)
    axes.grid(axis="x", color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_bars(
    axes: Axes,
    view: OperatorView,
    rows: Mapping[Row, int],
    timeline: Timeline,
    theme: Theme,
    inches_per_ms: float,
) -> None:
    for row, y in rows.items():
        bars = [bar for bar in timeline.bars if bar.row == row]
        axes.barh(
            [y] * len(bars),
            [bar.end_ms - bar.start_ms for bar in bars],
            left=[bar.start_ms for bar in bars],
            height=0.7,
            color=[theme.copy if bar.node is None else _colour(view, row) for bar in bars],
            edgecolor=theme.paper,
            linewidth=0.5,
        )
        for bar in bars:
            if bar.node is not None:
                text, size = str(bar.node.number), 7.0
                room = (bar.end_ms - bar.start_ms) * inches_per_ms
                if room > 0.66 * size / _POINTS * len(text):
                    axes.text(
                        (bar.start_ms + bar.end_ms) / 2,
                        y,
                        text,
                        ha="center",
                        va="center",
                        color=_LIGHT_TEXT,
                        fontsize=size,
                    )


def _arrow(axes: Axes, start: Point, end: Point, colour: str) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=5,
            shrinkA=0,
            shrinkB=0,
            linewidth=0.6,
            color=colour,
            alpha=0.75,
        )
    )


def _segments(view: OperatorView, layout: Layout) -> dict[tuple[Point, ...], bool]:
    """Return what edges consist of, each curve once: upright Bezier curves from layer to layer.

    True for curves all of whose edges go from one device to another.
    """
    crosses: dict[tuple[Point, ...], bool] = {}
    for edge in view.edges:
        route = list(layout.route[edge.src, edge.dst])
        route[0] = route[0][0], route[0][1] + 0.27
        route[-1] = route[-1][0], route[-1][1] - 0.27
        between = view.nodes[edge.src].row[0] != view.nodes[edge.dst].row[0]
        for (x0, y0), (x1, y1) in pairwise(route):
            middle = (y0 + y1) / 2
            points = (x0, y0), (x0, middle), (x1, middle), (x1, y1)
            crosses[points] = crosses.get(points, True) and between
    return crosses


def _legend(figure: Figure, view: OperatorView, theme: Theme) -> None:
    from matplotlib.patches import Patch

    devices = list(dict.fromkeys(row[0] for row in view.rows))
    handles = [
        Patch(facecolor=_colour(view, (device, 0)), label=_printable(device)) for device in devices
    ]
    legend = figure.legend(
        handles=handles,
        loc="upper left",
        ncols=len(handles),
        frameon=False,
        labelcolor=theme.ink,
        fontsize=9,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colour(view: OperatorView, row: Row) -> str:
    devices: Sequence[str] = [device.name for device in view.manifest.devices]
    return _COLOURS[devices.index(row[0]) % len(_COLOURS)]


def _row_label(row: Row, view: OperatorView) -> str:
    device, stream = row
    alone = all(other == row or other[0] != device for other in view.rows)
    return _printable(device if alone or stream == 0 else f"{device} stream {stream}")


def _printable(text: str) -> str:
    """Return `text` without what no figure can hold, such as control characters."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
