"""Timelines as SVG: a row for each core, GPU or stream, an operator a box in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree.ElementTree import Element

from hios_tvm.report.operator_types import OPERATOR_TYPES, time_by_type
from hios_tvm.report.rows import Stream, rows_of
from hios_tvm.report.svg import LETTER, LONGEST_LABEL, add, drawing, shortened
from hios_tvm.report.timeline import Bar, Timeline, Transfer
from hios_tvm.report.words import milliseconds

WIDTH = 1280
"""Pixels of a timeline that fits on a screen."""

_MARGIN = 16
_ROW, _BAR = 30, 24  # pixels from row to row, and of a bar
_LINE = 18  # pixels from line to line of text
_SHORTEST_MS = 1e-6  # of an axis: what an artifact predicts may be nothing
_TICK_SPACE = 90  # pixels between ticks at least
_KEY_LINES, _KEY_WIDTH = 6, 300  # of the list of the longest operators
_OUTLINED = 4  # pixels of a bar that has a light outline: it would hide smaller ones
_FEWEST_PIXELS = 18  # of the median bar, where bars are to be read


@dataclass(frozen=True)
class _Scale:
    """Where moments are: `left` is 0 ms."""

    left: float
    pixels_per_ms: float
    end_ms: float

    def x(self, ms: float) -> float:
        return self.left + ms * self.pixels_per_ms


def draw_timelines(
    streams: Sequence[Stream], timelines: Mapping[str, Timeline], *, width: float = WIDTH
) -> Element:
    """Draw timelines one above the other on one time axis; transfers are arrows.

    Parameters
    ----------
    streams
        Of devices that are shown in any case, in this order; those of the timelines follow. Devices
        that share cores have a row for each core; an operator is drawn on all rows of its device.
    timelines
        At least one, by the title of its panel.
    width
        Pixels.
    """
    used = {bar.stream for timeline in timelines.values() for bar in timeline.bars}
    labels, rows = rows_of(_in_order([*streams, *sorted(used)]))
    left = _MARGIN + LETTER * min(LONGEST_LABEL, max(map(len, labels))) + 10
    end_ms = max(_SHORTEST_MS, *(timeline.makespan_ms for timeline in timelines.values()))
    right = width - 2 * _MARGIN - LETTER * len("100% busy")
    scale = _Scale(left, (right - left) / end_ms, end_ms)
    types = {name: _time_by_type(timeline) for name, timeline in timelines.items()}
    legends = {title: _legend_lines(types[title], width) for title in timelines}
    bars = [*timelines.values()][-1].bars
    longest = sorted((bar for bar in bars if bar.node), key=lambda b: b.start_ms - b.end_ms)
    columns = min(4, int((width - 2 * _MARGIN) // _KEY_WIDTH))
    longest = longest[: _KEY_LINES * columns]
    body = len(labels) * _ROW + 2 * _LINE
    height = sum(1.6 * _LINE + _LINE * len(legends[title]) + body for title in timelines)
    key_height = (2 + math.ceil(len(longest) / columns)) * _LINE if longest else 0
    root = drawing(width, height + key_height + _MARGIN, f"Timeline: {'; '.join(timelines)}")
    y = 0.0
    for title, timeline in timelines.items():
        y += 1.3 * _LINE
        add(root, "text", title, class_="title", x=_MARGIN, y=y)
        for line in legends[title]:
            y += _LINE
            _draw_legend(root, line, types[title], y)
        y += 0.3 * _LINE
        panel = add(root, "g", transform=f"translate(0 {y:g})")
        _draw_axis(panel, labels, scale)
        _draw_panel(panel, labels, rows, timeline, scale)
        y += body
    if longest:
        _draw_key(root, longest, columns, y + _LINE, last=[*timelines][-1])
    return root


def _in_order(streams: Sequence[Stream]) -> list[Stream]:
    """Return each stream once: devices as they come first, the streams of each ascending.

    >>> _in_order([("cpu@1", 0), ("cpu@0", 0), ("cpu@1", 2), ("cpu@1", 1), ("cpu@0", 0)])
    [('cpu@1', 0), ('cpu@1', 1), ('cpu@1', 2), ('cpu@0', 0)]
    """
    devices = list(dict.fromkeys(device for device, _ in streams))
    return sorted(set(streams), key=lambda stream: (devices.index(stream[0]), stream[1]))


def readable_width(timelines: Mapping[str, Timeline]) -> float:
    """Return the pixels at which half of the bars have room for a number, 9,000 at most."""
    shares = [
        (bar.end_ms - bar.start_ms) / timeline.makespan_ms
        for timeline in timelines.values()
        for bar in timeline.bars
        if timeline.makespan_ms > 0 and bar.node is not None
    ]
    typical = median(shares) if shares else 1.0
    return min(9000.0, max(WIDTH, _FEWEST_PIXELS / max(typical, 1e-9)))


def _time_by_type(timeline: Timeline) -> dict[str, float]:
    return time_by_type(
        ("copies" if bar.node is None else bar.node.type, bar.end_ms - bar.start_ms)
        for bar in timeline.bars
    )


def _legend_lines(types: Mapping[str, float], width: float) -> list[list[tuple[str, float]]]:
    """Return lines of (type, x), as many as fit into the width."""
    lines: list[list[tuple[str, float]]] = [[]]
    x = float(_MARGIN)
    for name in types:
        room = 32 + LETTER * len(f"{name} 100 %")
        if x + room > width - _MARGIN and lines[-1]:
            lines.append([])
            x = _MARGIN
        lines[-1].append((name, x))
        x += room
    return lines


def _draw_legend(
    root: Element, line: Sequence[tuple[str, float]], types: Mapping[str, float], y: float
) -> None:
    total = sum(types.values()) or 1.0
    for name, x in line:
        group = add(root, "g", class_=_colour(name))
        add(group, "title", f"{name}: {milliseconds(types[name])} in all")
        add(group, "rect", x=x, y=y - 10, width=11, height=11, rx=2)
        share = types[name] / total
        text = f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%"
        add(root, "text", text, class_="soft mono", x=x + 16, y=y)


def _draw_axis(panel: Element, labels: Sequence[str], scale: _Scale) -> None:
    bottom = len(labels) * _ROW
    step = _tick_step(_TICK_SPACE / scale.pixels_per_ms)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [i * step for i in range(int(scale.end_ms / step + 1e-9) + 1)]
    for tick in ticks:
        x = scale.x(tick)
        add(panel, "line", class_="grid", x1=x, y1=0, x2=x, y2=bottom + 4)
        label = f"{tick:.{decimals}f}" + (" ms" if tick == ticks[-1] else "")
        add(panel, "text", label, class_="soft mono middle", x=x, y=bottom + 16)
    for i, label in enumerate(labels):
        y = (i + 0.5) * _ROW + 4
        text = shortened(label, LONGEST_LABEL)
        add(panel, "text", text, class_="mono end", x=scale.left - 10, y=y)


def _draw_panel(
    panel: Element,
    labels: Sequence[str],
    rows: Mapping[Stream, tuple[int, ...]],
    timeline: Timeline,
    scale: _Scale,
) -> None:
    for transfer in timeline.transfers:
        _draw_transfer(panel, transfer, rows, scale)
    for stream in rows:
        bars = [bar for bar in timeline.bars if bar.stream == stream]
        if bars:
            name = f"{stream[0]}, stream {stream[1]}" if stream[1] else stream[0]
            group = add(panel, "g", role="list", aria_label=f"{name}: {len(bars)} steps")
            for bar in bars:
                for first, last in _runs(rows[stream]):
                    _draw_bar(group, bar, _top(first), _bottom(last), scale)
    for row, share in enumerate(_busy_shares(len(labels), rows, timeline)):
        place = {"x": scale.x(scale.end_ms) + 10, "y": (row + 0.5) * _ROW + 4}
        add(panel, "text", f"{share:.0%} busy", class_="soft mono", **place)
    x = scale.x(timeline.makespan_ms)
    add(panel, "line", class_="limit", x1=x, y1=0, x2=x, y2=len(labels) * _ROW)


def _busy_shares(
    count: int, rows: Mapping[Stream, tuple[int, ...]], timeline: Timeline
) -> list[float]:
    """Return for each row which share of the run its bars take."""
    busy_ms = [0.0] * count
    for bar in timeline.bars:
        for row in rows[bar.stream]:
            busy_ms[row] += bar.end_ms - bar.start_ms
    return [ms / (timeline.makespan_ms or 1.0) for ms in busy_ms]


def _top(row: int) -> float:
    return row * _ROW + (_ROW - _BAR) / 2


def _bottom(row: int) -> float:
    return _top(row) + _BAR


def _draw_bar(group: Element, bar: Bar, top: float, bottom: float, scale: _Scale) -> None:
    """Draw one box; its label is what fits."""
    name = "copies" if bar.node is None else bar.node.type
    width = (bar.end_ms - bar.start_ms) * scale.pixels_per_ms
    kind = "box" if width >= _OUTLINED else "box narrow"
    box = add(group, "g", class_=f"{kind} {_colour(name)}", role="listitem")
    add(box, "title", "\n".join(_facts(bar)))
    left, height = scale.x(bar.start_ms), bottom - top
    add(box, "rect", x=left, y=top, width=max(0.6, width), height=height)
    if bar.node is not None:
        number = str(bar.node.number)
        named = f"{number} {bar.node.name}"
        label = named if LETTER * len(named) + 6 < width else number
        if LETTER * len(label) + 2 < width:
            middle = (top + bottom) / 2 + 4
            add(box, "text", label, class_="mono middle", x=left + width / 2, y=middle)


def _facts(bar: Bar) -> list[str]:
    device, stream = bar.stream
    where = f"{device}, stream {stream}" if stream else device
    when = f"{milliseconds(bar.end_ms - bar.start_ms)} from {milliseconds(bar.start_ms)}"
    if bar.node is None:
        return ["copy", f"{where}: {when}"]
    node = bar.node
    return [f"{node.number} {node.name}: {node.type}", f"{where}: {when}", *node.facts]


def _draw_transfer(
    panel: Element, transfer: Transfer, rows: Mapping[Stream, tuple[int, ...]], scale: _Scale
) -> None:
    """Draw an arrow from row to row; none where devices share a core, and need no transfer."""
    src, dst = rows[transfer.src], rows[transfer.dst]
    if set(src) & set(dst):
        return
    if dst[0] > src[-1]:
        y0, y1 = _bottom(src[-1]), _top(dst[0])
    else:
        y0, y1 = _top(src[0]), _bottom(dst[-1])
    x0, x1 = scale.x(transfer.start_ms), scale.x(transfer.end_ms)
    add(panel, "line", class_="handover", x1=x0, y1=y0, x2=x1, y2=y1)
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    right, down = 4 * (x1 - x0) / length, 4 * (y1 - y0) / length
    corners = (
        (x1, y1),
        (x1 - right - down / 2, y1 - down + right / 2),
        (x1 - right + down / 2, y1 - down - right / 2),
    )
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    add(panel, "polygon", class_="ink", points=points)


def _draw_key(root: Element, bars: Sequence[Bar], columns: int, y: float, last: str) -> None:
    """List the operators that take longest, for whoever cannot hover over a box."""
    add(root, "text", f"Longest operators ({last.split(':')[0]})", x=_MARGIN, y=y, class_="title")
    lines = math.ceil(len(bars) / columns)
    for i, bar in enumerate(bars):
        assert bar.node is not None
        x = _MARGIN + i // lines * _KEY_WIDTH
        line = y + (i % lines + 1.2) * _LINE
        add(root, "text", str(bar.node.number), class_="mono end", x=x + 3 * LETTER, y=line)
        name = shortened(bar.node.name, 26)
        add(root, "text", name, class_="mono", x=x + 4 * LETTER, y=line)
        time = milliseconds(bar.end_ms - bar.start_ms)
        add(root, "text", time, class_="soft mono end", x=x + 40 * LETTER, y=line)


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of neighbouring rows.

    >>> _runs((0, 1, 3))
    [(0, 1), (3, 3)]
    """
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], row
        else:
            runs.append((row, row))
    return runs


def _tick_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below `least`.

    >>> _tick_step(0.3), _tick_step(7.0)
    (0.5, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least)


def _colour(name: str) -> str:
    return f"c{OPERATOR_TYPES.index(name if name in OPERATOR_TYPES else 'other')}"
