"""The page about an artifact: as a parser sees it, and as a browser does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_drawing import HOSTILE
from test_timeline import MANIFEST, TRACE

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
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
    "--window-size=1400,2000",
)  # fmt: skip


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
    assert page.tags.count("table") == 5
    # c is the furthest from its cost of 2 ms, b and a took 1 ms more than theirs
    furthest = page.text[page.text.index("Furthest") :]
    assert furthest.index("+1.0000") < furthest.index("Operator graph")


def test_a_page_needs_no_network_and_runs_nothing() -> None:
    page = Page(render_page(MANIFEST, RESULT, "a machine"))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not page.handlers


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
    assert not {"script", "img"} & set(page.tags)
    assert not page.handlers
    assert page.text.count("<script>alert(1)</script>") >= 6


def browse(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Return the DOM of a page once it is loaded, and what the browser's console says."""
    assert CHROMIUM is not None
    result = subprocess.run(
        [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (package chromium)")
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
        assert page.tags == Page(html).tags  # the browser has repaired nothing
        assert page.tags.count("svg") == 2

    path.write_text(html.replace("</body>", "<script>nowhere()</script></body>"))
    _, console = browse(path, tmp_path / "profile")
    assert len(console) == 1  # and a broken page would be noticed


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
