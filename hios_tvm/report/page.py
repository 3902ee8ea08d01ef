"""One page about an artifact, with everything in it: no network (extra ``report``)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from statistics import median
from typing import Any

from hios_tvm.errors import UsageError
from hios_tvm.measuring.benchmark import BenchmarkResult
from hios_tvm.measuring.contest import trials_of
from hios_tvm.report.blocks import LARGE
from hios_tvm.report.explain import bottlenecks, cost_differences, manifest_reports
from hios_tvm.report.graph_drawing import draw_blocks, draw_graph
from hios_tvm.report.operator_types import OPERATOR_TYPES, time_by_type
from hios_tvm.report.svg import DARK, FILLS, LIGHT, stylesheet, to_html
from hios_tvm.report.timeline import Node, OperatorView, Timeline, rejected_timelines, timelines
from hios_tvm.report.timeline_drawing import WIDTH, draw_timelines, readable_width
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.program import Copy


@dataclass(frozen=True)
class OperatorRow:
    """A line of the table of operators; None where a time is not known."""

    node: Node
    device: str
    stream: int
    start_ms: float | None
    cost_ms: float | None
    measured_ms: float | None

    @property
    def difference_ms(self) -> float | None:
        if self.cost_ms is None or self.measured_ms is None:
            return None
        return self.measured_ms - self.cost_ms


@dataclass(frozen=True)
class TypeRow:
    """A line of the table of operator types; `colour` is the place of its colour in `FILLS`."""

    type: str
    operators: int
    ms: float
    share: float
    colour: int


@dataclass(frozen=True)
class TransferRow:
    """A line of the table of transfers; `predicted_ms` includes its latency."""

    producer: str
    src: str
    dst: str
    nbytes: int
    predicted_ms: float | None
    measured_ms: float | None


def require_page() -> None:
    """Raise `UsageError` where a library is missing, before work is spent on a page."""
    if find_spec("jinja2") is None:
        raise UsageError("reports need Jinja2: pip install 'hios-tvm[report]'")


def render_page(manifest: Manifest, result: BenchmarkResult | None, machine: str) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    manifest : Manifest
        Of the artifact. Its names come from a model, and may be anything.
    result : BenchmarkResult, optional
        Runs on this machine; without them the page shows the prediction alone.
    machine : str
        Where they were measured.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    view = OperatorView(manifest)
    operators = _operators(view, result)
    costs = {row.node.name: row.cost_ms for row in operators if row.cost_ms is not None}
    times = result.operator_ms if result else costs
    script = files("hios_tvm.report").joinpath("sort.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("hios_tvm.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        light=LIGHT,
        dark=DARK,
        fills=FILLS,
        drawing_style=stylesheet(),
        script=script,
        script_hash=_csp_hash(script),
        manifest=manifest,
        result=result,
        machine=machine,
        notes=[] if result is None else bottlenecks(result, manifest),
        devices=manifest_reports(manifest),
        differences=cost_differences(manifest, result.operator_ms)[:10] if result else [],
        numbers={node.name: node.number for node in view.nodes.values()},
        operators=operators,
        transfers=_transfers(view, result),
        types=_types(view, times),
        trials=trials_of(manifest),
        rejected_svg=_rejected(view),
        **_timeline_pictures(view, timelines(view, result)),
        **_graph_pictures(view, times),
    )


def _timeline_pictures(view: OperatorView, panels: Mapping[str, Timeline]) -> dict[str, str]:
    """Return the timeline as it fits on a screen, and a wider one where that hides operators."""
    if not panels:
        return {"timeline_svg": "", "wide_timeline_svg": ""}
    width = readable_width(panels)
    wide = to_html(draw_timelines(view.streams, panels, width=width)) if width > 1.2 * WIDTH else ""
    fitted = to_html(draw_timelines(view.streams, panels))
    return {"timeline_svg": fitted, "wide_timeline_svg": wide}


def _rejected(view: OperatorView) -> str:
    panels = rejected_timelines(view)
    return to_html(draw_timelines(view.streams, panels)) if panels else ""


def _graph_pictures(view: OperatorView, times: Mapping[str, float]) -> dict[str, Any]:
    if len(view.nodes) <= LARGE:
        return {"graph_svg": to_html(draw_graph(view, times)), "blocks": []}
    overview, blocks = draw_blocks(view, times)
    pictures = [(block, title, to_html(picture)) for block, title, picture in blocks]
    return {"graph_svg": to_html(overview), "blocks": pictures}


def _types(view: OperatorView, times: Mapping[str, float]) -> Sequence[TypeRow]:
    """Return the time of each operator type, the largest first."""
    nodes = [view.nodes[name] for name in times if name in view.nodes]
    sums = time_by_type((node.type, times[node.name]) for node in nodes)
    total = sum(sums.values()) or 1.0
    return [
        TypeRow(
            name, sum(n.type == name for n in nodes), ms, ms / total, OPERATOR_TYPES.index(name)
        )
        for name, ms in sums.items()
    ]


def _csp_hash(script: str) -> str:
    """Return what a content security policy calls an inline script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _operators(view: OperatorView, result: BenchmarkResult | None) -> list[OperatorRow]:
    predicted = {item.operator: item for item in view.manifest.prediction.operators}
    measured = {} if result is None else result.operator_ms
    rows = []
    for node in view.nodes.values():
        item = predicted.get(node.name)
        rows.append(
            OperatorRow(
                node,
                *view.stream[node.name],
                None if item is None else item.start_ms,
                None if item is None else item.cost_ms,
                measured.get(node.name),
            )
        )
    return rows


def _transfers(view: OperatorView, result: BenchmarkResult | None) -> list[TransferRow]:
    """Return a line for each copy between devices, in the order of the programs."""
    predicted = {
        (item.src, view.stream[item.dst][0]): item.end_ms - item.start_ms
        for item in view.manifest.prediction.transfers
        if item.dst in view.nodes
    }
    runs = [] if result is None else [trace.durations_ms("copy") for trace in result.traces]
    rows = []
    for program in view.manifest.programs:
        for step in program.instructions:
            producer = view.producer.get(step.dst) if isinstance(step, Copy) else None
            if isinstance(step, Copy) and producer in view.nodes:
                buffer = view.manifest.buffer.get(step.dst)
                rows.append(
                    TransferRow(
                        producer,
                        view.stream[producer][0],
                        program.device,
                        0 if buffer is None else buffer.nbytes,
                        predicted.get((producer, program.device)),
                        median(run[step.dst] for run in runs) if runs else None,
                    )
                )
    return rows
