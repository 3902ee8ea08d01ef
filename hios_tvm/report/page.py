"""One page about an artifact, with everything in it: no network, no scripts (extra ``report``)."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

from hios_tvm.errors import UsageError
from hios_tvm.measuring.benchmark import BenchmarkResult
from hios_tvm.report.drawing import Theme, draw_graph, draw_timelines, render
from hios_tvm.report.explain import bottlenecks, cost_differences, manifest_reports
from hios_tvm.report.figures import require_matplotlib
from hios_tvm.report.timeline import OperatorView, timelines
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.program import Call, Copy

# Colours that stand for those of the page, which follow the reader's light or dark mode.
_THEME = Theme(ink="#010203", faint="#010204", paper="#010205", copy="#010206")
_VARIABLES = {"#010203": "ink", "#010204": "faint", "#010205": "paper", "#010206": "copy"}


@dataclass(frozen=True)
class OperatorRow:
    """A line of the table of operators; None where a time is not known."""

    number: int
    operator: str
    kernel: str
    nodes: str
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
    require_matplotlib()
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
    times = {row.operator: row.cost_ms for row in operators if row.cost_ms is not None}
    panels = timelines(view, result)
    environment = Environment(
        loader=PackageLoader("hios_tvm.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        manifest=manifest,
        result=result,
        machine=machine,
        notes=[] if result is None else bottlenecks(result, manifest),
        devices=manifest_reports(manifest),
        differences=cost_differences(manifest, result.operator_ms)[:10] if result else [],
        numbers={node.name: node.number for node in view.nodes.values()},
        operators=operators,
        transfers=_transfers(view, result),
        timeline_svg=_inline(render(draw_timelines(view, panels, _THEME), "svg")) if panels else "",
        graph_svg=_inline(
            render(draw_graph(view, result.operator_ms if result else times, _THEME), "svg")
        ),
    )


def _operators(view: OperatorView, result: BenchmarkResult | None) -> list[OperatorRow]:
    predicted = {item.operator: item for item in view.manifest.prediction.operators}
    measured = {} if result is None else result.operator_ms
    kernels = {
        step.operator: step.kernel
        for program in view.manifest.programs
        for step in program.instructions
        if isinstance(step, Call)
    }
    graph = view.manifest.graph
    nodes = {} if graph is None else {item.name: item.nodes for item in graph.operators}
    rows = []
    for node in view.nodes.values():
        item = predicted.get(node.name)
        rows.append(
            OperatorRow(
                node.number,
                node.name,
                kernels[node.name],
                ", ".join(nodes.get(node.name, ())),
                *node.row,
                None if item is None else item.start_ms,
                None if item is None else item.cost_ms,
                measured.get(node.name),
            )
        )
    return rows


def _transfers(view: OperatorView, result: BenchmarkResult | None) -> list[TransferRow]:
    """Return a line for each copy between devices, in the order of the programs."""
    predicted = {
        (item.src, view.nodes[item.dst].row[0]): item.end_ms - item.start_ms
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
                        view.nodes[producer].row[0],
                        program.device,
                        0 if buffer is None else buffer.nbytes,
                        predicted.get((producer, program.device)),
                        median(run[step.dst] for run in runs) if runs else None,
                    )
                )
    return rows


def _inline(svg: bytes) -> str:
    """Return an SVG as an element of the page, in the page's colours.

    Names inside it were escaped when it was drawn.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
