"""The page about an artifact: as a parser sees it, and as a browser does."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from browser import browse, needs_chromium
from drawn_networks import manifest_of, with_rejected
from test_timeline import MANIFEST, TRACE
from test_timeline_drawing import HOSTILE

from hios_tvm.measuring.benchmark import BenchmarkResult
from hios_tvm.measuring.latency import LatencySummary
from hios_tvm.report.page import render_page
from hios_tvm.schema.manifest import PredictedOperator, Prediction
from hios_tvm.schema.program import Call, Program

RESULT = BenchmarkResult(
    latency=LatencySummary.of([9.0, 9.5, 10.0]),
    throughput_per_s=100.0,
    concurrency=1,
    sessions=1,
    busy_ms=TRACE.milliseconds("call", "copy"),
    busy_share={"cpu@0": 0.5, "cpu@1": 0.25},
    copy_ms=TRACE.milliseconds("copy"),
    operator_ms=TRACE.durations_ms("call"),
    traces=(TRACE,),
)


class Page(HTMLParser):
    """Counts elements, keeps text, addresses, and attributes that would run code."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_what_was_predicted_and_measured() -> None:
    page = Page(render_page(MANIFEST, RESULT, "a machine"))
    assert page.tags.count("svg") == 2
    for text in ("small", "predicted: 6.00 ms", "measured: 9.00 ms", "9.50 ms", "a machine"):
        assert text in page.text
    assert page.tags.count("table") == 6
    # c is the furthest from its cost of 2 ms, b and a took 1 ms more than theirs
    furthest = page.text[page.text.index("Furthest") :]
    assert furthest.index("+1.0000") < furthest.index("Operator graph")


def test_a_page_needs_no_network_and_runs_only_its_own_script() -> None:
    html = render_page(MANIFEST, RESULT, "a machine")
    page = Page(html)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert not page.handlers
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = html.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith(f"; script-src 'sha256-{digest}'")


def test_a_page_lists_the_schedules_that_were_tried_out() -> None:
    trial = {
        "scheduler": "refine", "devices": ["cpu@0", "cpu@1"], "predicted_ms": 6.0,
        "measured_ms": 7.25, "spread_ms": 0.5, "schedule": None, "prediction": None,
    }  # fmt: skip
    page = Page(render_page(replace(MANIFEST, compile_info={"trials": [trial]}), None, ""))
    tried = page.text[page.text.index("Schedules that were tried out") :]
    assert tried.index("refine") < tried.index("7.25") < tried.index("Devices")
    for strange in ("none", [1], [{"scheduler": "refine"}]):
        page = Page(render_page(replace(MANIFEST, compile_info={"trials": strange}), None, ""))
        assert "tried out" not in page.text


def test_a_page_draws_what_was_not_kept() -> None:
    kept, other = (manifest_of("squeezenet1_1", name) for name in ("hios-lp", "sequential"))
    page = Page(render_page(with_rejected(kept, other), None, ""))
    assert "not kept, sequential on cpu@0: predicted 3.00 ms, measured 4.00 ms" in page.text


def test_a_page_sums_up_time_by_type() -> None:
    page = Page(render_page(manifest_of("squeezenet1_1", "sequential"), None, ""))
    types = page.text[page.text.index("Time by operator type") : page.text.index("Devices")]
    assert types.index("convolution") < types.index("pooling")


def test_a_large_graph_is_folded_into_blocks() -> None:
    """Links lead to blocks, which a browser opens."""
    html = render_page(manifest_of("densenet121", "sequential"), None, "")
    page = Page(html)
    links = {address for address in page.addresses if address.startswith("#")}
    assert len(links) > 3
    assert all(f'id="{link[1:]}"' in html for link in links)
    assert page.tags.count("details") == len(links) + 1  # and the wide timeline


def test_a_page_without_runs_shows_the_prediction_alone() -> None:
    page = Page(render_page(MANIFEST, None, "a machine"))
    assert "predicted: 6.00 ms" in page.text
    assert "measured:" not in page.text
    assert "a machine" not in page.text


def test_an_artifact_without_prediction_has_a_page_too() -> None:
    bare = replace(MANIFEST, prediction=Prediction())
    assert "measured: 9.00 ms" in Page(render_page(bare, RESULT, "a machine")).text
    assert "3 operators" in Page(render_page(bare, None, "a machine")).text


def hostile_page() -> str:
    """Return the page of an artifact that wants to run code wherever it is named."""
    attack = f'"><img src=x onerror=alert(1)>{HOSTILE}'
    devices = (replace(MANIFEST.devices[0], name=attack),)
    inputs = (replace(MANIFEST.inputs[0], name=attack),)
    manifest = replace(
        MANIFEST,
        model=attack,
        tvm_version=attack,
        inputs=inputs,
        devices=devices,
        programs=(Program(attack, 0, (Call(attack, attack, ("x", "a")),)),),
        prediction=Prediction((PredictedOperator(attack, 1.0, 0.0, 1.0),)),
        schedule={"scheduler": attack, "devices": [{"name": attack, "stages": []}]},
        compile_info={"machine": attack, "hios_tvm": attack},
    )
    html = render_page(manifest, None, attack)
    return html.encode(errors="replace").decode()


def test_names_cannot_become_markup() -> None:
    page = Page(hostile_page())
    assert "img" not in page.tags
    assert page.tags.count("script") == 1  # the page's own
    assert not page.handlers
    assert page.text.count("<script>alert(1)</script>") >= 6


@needs_chromium
def test_a_browser_shows_the_page_without_complaints(tmp_path: Path) -> None:
    for name, html in (
        ("page", render_page(MANIFEST, RESULT, "a machine")),
        ("hostile", hostile_page()),
    ):
        path = tmp_path / f"{name}.html"
        path.write_text(html)
        dom, console = browse(path, tmp_path / "profile")
        assert console == []
        page = Page(dom)
        tags = [tag for tag in page.tags if tag != "button"]  # which the script adds
        assert tags == Page(html).tags  # the browser has repaired nothing
        assert page.tags.count("svg") == 2


def test_without_jinja_the_extra_is_named() -> None:
    code = """
import sys
from importlib import util
find = util.find_spec
util.find_spec = lambda name: None if name == "jinja2" else find(name)
from hios_tvm.errors import UsageError
from hios_tvm.report.page import require_page
try:
    require_page()
except UsageError as error:
    assert "pip install 'hios-tvm[report]'" in str(error)
else:
    raise SystemExit("no error")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
