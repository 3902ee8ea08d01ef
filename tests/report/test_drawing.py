"""Drawings of a small artifact: what they must hold, whatever its names are."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from test_timeline import MANIFEST, TRACE

from hios_tvm.report.drawing import draw_graph, draw_timelines, render
from hios_tvm.report.timeline import OperatorView, measured_timeline, predicted_timeline
from hios_tvm.schema.manifest import Manifest, PredictedOperator, Prediction
from hios_tvm.schema.program import Call, Program

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>$\\frac$\x00\ud800\U0001f600 & co"


def texts(svg: bytes) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def both(manifest: Manifest) -> bytes:
    view = OperatorView(manifest)
    predicted = predicted_timeline(view)
    assert predicted is not None
    panels = {"predicted": predicted, "measured": measured_timeline(view, TRACE)}
    return render(draw_timelines(view, panels), "svg")


def test_a_timeline_names_devices_and_numbers_operators() -> None:
    found = texts(both(MANIFEST))
    assert found.count("cpu@0") == found.count("cpu@1") == 2
    assert {"predicted", "measured", "milliseconds"} <= set(found)
    assert all(found.count(number) >= 2 for number in "123")


def test_streams_have_rows_of_their_own() -> None:
    programs = tuple(
        Program("cpu@0", stream, (Call(f"op{stream}", "k", ("x", "a")),)) for stream in range(3)
    )
    items = tuple(PredictedOperator(f"op{stream}", 1.0, 0.0, 1.0) for stream in range(3))
    manifest = replace(MANIFEST, programs=programs, prediction=Prediction(items))
    view = OperatorView(manifest)
    predicted = predicted_timeline(view)
    assert predicted is not None
    found = texts(render(draw_timelines(view, {"predicted": predicted}), "svg"))
    assert {"cpu@0", "cpu@0 stream 1", "cpu@0 stream 2"} <= set(found)


def test_a_graph_has_every_operator_with_its_time() -> None:
    found = texts(render(draw_graph(OperatorView(MANIFEST), {"a": 1.25}), "svg"))
    assert {"1  a", "1.25 ms", "2  c", "3  b", "cpu@0", "cpu@1"} <= set(found)


def test_drawings_are_the_same_every_time() -> None:
    assert both(MANIFEST) == both(MANIFEST)


def test_a_png_is_a_picture() -> None:
    png = render(draw_graph(OperatorView(MANIFEST), {}), "png")
    assert png.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(png[16:20], "big") > 500  # the width


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_names_are_text_and_nothing_else(kind: str) -> None:
    """Markup, mathematics, control characters, and letters that fonts lack."""
    program = Program("cpu@0", 0, (Call(HOSTILE, "k", ("x", "a")),))
    items = (PredictedOperator(HOSTILE, 1.0, 0.0, 1.0),)
    devices = (replace(MANIFEST.devices[0], name=HOSTILE),)
    program = replace(program, device=HOSTILE)
    manifest = replace(MANIFEST, devices=devices, programs=(program,), prediction=Prediction(items))
    view = OperatorView(manifest)
    predicted = predicted_timeline(view)
    assert predicted is not None
    for figure in (draw_timelines(view, {HOSTILE: predicted}), draw_graph(view, {HOSTILE: 1.0})):
        content = render(figure, kind)
        if kind == "svg":
            tags = {element.tag for element in ElementTree.fromstring(content).iter()}
            assert f"{SVG}script" not in tags
            assert any("<script>" in text for text in texts(content))
