"""All pictures as a browser shows them: nothing is clipped, hidden, pale or without a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import check_layout, needs_chromium
from drawn_networks import manifest_of, with_rejected
from test_page import RESULT
from test_timeline import MANIFEST

from hios_tvm.compiler.compilation import Compilation
from hios_tvm.experiments.comparison import schedule_instance
from hios_tvm.measuring.contest import MeasuredSchedule
from hios_tvm.report.graph_drawing import draw_graph
from hios_tvm.report.page import render_page
from hios_tvm.report.schedule_drawing import draw_schedules
from hios_tvm.report.svg import to_svg
from hios_tvm.report.timeline import OperatorView
from hios_tvm.schema.instance import read_instance
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.schedule import Schedule
from hios_tvm.zoo.costs import cost_file

pytestmark = needs_chromium
LAYERS = Path(__file__).parents[2] / "docs" / "layers.svg"


BAD = f"""
<meta name="viewport" content="width=device-width">
<svg class="drawing" width="200" height="90"><rect width="200" height="90" fill="#fff"/>
<text x="150" y="20">a clipped text</text><text x="9" y="40" fill="#eee">pale</text>
<text x="9" y="60">one</text><text x="9" y="62">two</text>
<g class="box"><rect y="70" width="9" height="9" fill="#fff"/><text y="80">large</text></g></svg>
<p style="color: #fefefe; width: 3000px">pale</p>
<p style="overflow: hidden">{"long" * 200}</p>
<script>nowhere()</script>
"""
PROBLEMS = (
    "clipped: a clipped text", "contrast: pale", "overlap: one two", "larger than its box: large",
    "no title", "cut off: long", "wider than the window",
)  # fmt: skip


def compilation(manifest: Manifest) -> Compilation:
    """Return a compile that made this manifest."""
    assert manifest.graph is not None
    schedule = Schedule.from_json(json.dumps(manifest.schedule))
    trial = MeasuredSchedule("sequential", ("cpu@0",), 2.0, (2.0, 3.0))
    return Compilation(
        Path("model.hios"), manifest.graph, schedule, manifest, {"lower": 1.0}, trials=(trial,)
    )


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Pages of a small and a large network, and pictures that stand alone."""
    inception = read_instance(cost_file("inception_v3", 2))
    schedules = {name: schedule_instance(inception, name) for name in ("hios-lp", "sequential")}
    squeezenet = OperatorView(manifest_of("squeezenet1_1", "sequential"))
    large = with_rejected(
        manifest_of("nasnet_a_large", "hios-lp"), manifest_of("nasnet_a_large", "sequential")
    )
    pictures = {
        "schedules": to_svg(draw_schedules(schedules, inception)).decode(),
        "graph": to_svg(draw_graph(squeezenet, {"transpose": 1.0})).decode(),
        "layers": LAYERS.read_text(),
        "notebook": compilation(squeezenet.manifest)._repr_html_(),
    }
    return {
        "small report": render_page(MANIFEST, RESULT, "a machine"),
        "report": render_page(large, None, "a machine"),
        "bad": BAD,
        **{name: f"<body style='margin:0'>{svg}</body>" for name, svg in pictures.items()},
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_can_be_read(pages: dict[str, str], dark: bool, tmp_path: Path) -> None:
    found = check_layout(pages, tmp_path, dark=dark)
    bad = [problem for problem in found["problems"] if problem.startswith("bad at ")]
    assert found["problems"] == bad
    for what in PROBLEMS:  # that of the bad page are noticed
        assert any(what in problem for problem in bad), (what, bad)
    assert len(found["console"]) == 2  # of the bad page, at two widths
    assert all("nowhere is not defined" in line for line in found["console"])
    assert found["texts"] > 8000
