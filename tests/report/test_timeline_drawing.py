"""Timelines of small artifacts: what they must hold, whatever the names are."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from test_timeline import MANIFEST, TRACE

from hios_tvm.report.graph_drawing import draw_graph
from hios_tvm.report.schedule_drawing import draw_schedules
from hios_tvm.report.svg import DARK, FILLS, LIGHT, contrast, text_on, to_png, to_svg
from hios_tvm.report.timeline import OperatorView, measured_timeline, predicted_timeline
from hios_tvm.report.timeline_drawing import draw_timelines, readable_width
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.manifest import Manifest, PredictedOperator, Prediction
from hios_tvm.schema.platform import Device, Platform
from hios_tvm.schema.program import COPY_STREAM, Call, Program
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>$\\frac$\x00\ud800\U0001f600 & co"
Rect = tuple[float, float, float, float]


def texts(svg: bytes, tag: str = "text") -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}{tag}")]


def boxes(svg: bytes) -> dict[str, list[Rect]]:
    """Return x, y, width and height of the boxes of each operator, by the line of its title."""
    found: dict[str, list[Rect]] = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if group.get("class", "").startswith("box"):
            title, rect = group.findtext(f"{SVG}title"), group.find(f"{SVG}rect")
            assert title is not None and rect is not None
            x, y, width, height = (float(rect.get(k, "")) for k in ("x", "y", "width", "height"))
            found.setdefault(title.split("\n")[0], []).append((x, y, width, height))
    return found


def both(manifest: Manifest) -> bytes:
    view = OperatorView(manifest)
    predicted = predicted_timeline(view)
    assert predicted is not None
    panels = {"predicted": predicted, "measured": measured_timeline(view, TRACE)}
    return to_svg(draw_timelines(view.streams, panels))


def predicted_only(manifest: Manifest) -> bytes:
    view = OperatorView(manifest)
    predicted = predicted_timeline(view)
    assert predicted is not None
    return to_svg(draw_timelines(view.streams, {"predicted": predicted}))


def test_a_timeline_names_devices_and_numbers_operators() -> None:
    found = texts(both(MANIFEST))
    assert found.count("cpu@0") == found.count("cpu@1") == 2
    assert {"predicted", "measured", "Longest operators (measured)"} <= set(found)
    assert all(found.count(f"{number} {name}") == 2 for number, name in ((1, "a"), (2, "c")))


def test_a_box_says_what_it_is_where_and_how_long() -> None:
    (title,) = (text for text in texts(predicted_only(MANIFEST), "title") if text[0] == "3")
    assert title.split("\n") == [
        "3 b: other", "cpu@0: 5.00 ms from 1.00 ms", "kernel k", "output 8 float32",
    ]  # fmt: skip


def test_streams_and_copies_have_rows_of_their_own() -> None:
    streams = (0, 1, COPY_STREAM)
    programs = tuple(
        Program("cpu@0", stream, (Call(f"op{stream}", "k", ("x", "a")),)) for stream in streams
    )
    items = tuple(PredictedOperator(f"op{stream}", 1.0, 0.0, 1.0) for stream in streams)
    manifest = replace(MANIFEST, programs=programs, prediction=Prediction(items))
    assert {"cpu@0", "cpu@0 stream 1", "cpu@0 copies"} <= set(texts(predicted_only(manifest)))


def test_an_operator_on_both_cores_spans_the_rows_of_both() -> None:
    names = "cpu@0-1", "cpu@0", "cpu@1"
    devices = tuple(replace(MANIFEST.devices[0], name=name) for name in names)
    programs = tuple(Program(n, 0, (Call(f"on {n}", "k", ("x", "a")),)) for n in names)
    spans = (0.0, 1.0), (1.0, 2.0), (1.0, 3.0)
    items = tuple(
        PredictedOperator(f"on {n}", 1.0, *span) for n, span in zip(names, spans, strict=True)
    )
    manifest = replace(MANIFEST, devices=devices, programs=programs, prediction=Prediction(items))
    svg = predicted_only(manifest)
    found = texts(svg)
    assert "core 0" in found and "core 1" in found
    (wide,), (first,), (second,) = boxes(svg).values()
    assert first[1] < second[1]
    assert (wide[1], wide[1] + wide[3]) == (first[1], second[1] + second[3])
    assert wide[0] + wide[2] == pytest.approx(first[0], abs=0.1)
    assert second[2] == pytest.approx(2 * first[2], abs=0.1)
    assert "67% busy" in found and "100% busy" in found


def test_schedules_are_drawn_on_one_axis() -> None:
    graph = MANIFEST.graph
    assert graph is not None
    platform = Platform((Device("cpu@0"), Device("cpu@1")))
    model = platform.devices[0].model
    costs = CostTable({model: {name: Measurement(2.0) for name in "abc"}}, platform=platform)
    alone = Schedule("alone", (DeviceSchedule("cpu@0", tuple(Stage(((n,),)) for n in "abc")),))
    split = Schedule(
        "split",
        (
            DeviceSchedule("cpu@0", (Stage((("a",),)), Stage((("b",),)))),
            DeviceSchedule("cpu@1", (Stage((("c",),)),)),
        ),
    )
    svg = to_svg(draw_schedules({"alone": alone, "split": split}, Instance(graph, costs, platform)))
    assert {"alone: 6.00 ms", "split: 4.00 ms"} <= set(texts(svg))
    (first, second) = boxes(svg)["2 b: other"]
    assert first[0] == second[0] and first[2] == second[2]
    (upper, lower) = boxes(svg)["3 c: other"]
    assert upper[0] > lower[0]


def test_stream_groups_have_rows_and_share_time_as_their_costs_do() -> None:
    """a and b are one group of a stage; c is a group beside b in another schedule."""
    graph = MANIFEST.graph
    assert graph is not None
    platform = Platform((Device("cuda:0"),))
    times = {name: Measurement(ms) for name, ms in (("a", 1.0), ("b", 3.0), ("c", 3.0))}
    instance = Instance(graph, CostTable({platform.devices[0].model: times}), platform)
    one = (Stage((("a", "b"),)), Stage((("c",),)))
    two = (Stage((("a",),)), Stage((("b",), ("c",))))
    schedules = {
        name: Schedule(name, (DeviceSchedule("cuda:0", stages),))
        for name, stages in (("one", one), ("two", two))
    }
    svg = to_svg(draw_schedules(schedules, instance))
    assert {"cuda:0", "cuda:0 stream 1"} <= set(texts(svg))
    found = boxes(svg)
    assert found["2 b: other"][0][2] == pytest.approx(3 * found["1 a: other"][0][2], abs=0.1)
    (_, b_top, b_width, _), (_, c_top, c_width, _) = found["2 b: other"][1], found["3 c: other"][1]
    assert b_top < c_top
    assert b_width == c_width


def test_short_operators_make_a_wider_timeline() -> None:
    items = tuple(PredictedOperator(name, 1.0, i, i + 1.0) for i, name in enumerate("abc"))
    few = predicted_timeline(OperatorView(replace(MANIFEST, prediction=Prediction(items))))
    short = tuple(replace(item, end_ms=item.start_ms + 0.001) for item in items)
    many = predicted_timeline(OperatorView(replace(MANIFEST, prediction=Prediction(short))))
    assert few is not None and many is not None
    assert readable_width({"": few}) == 1280
    assert readable_width({"": many}) == 9000


def test_drawings_are_the_same_every_time() -> None:
    assert both(MANIFEST) == both(MANIFEST)


def test_text_has_enough_contrast() -> None:
    """4.5 is what WCAG 2 asks for (level AA)."""
    for theme in (LIGHT, DARK):
        for colour in (theme.ink, theme.soft, theme.worse, theme.better):
            assert min(contrast(colour, theme.paper), contrast(colour, theme.panel)) >= 4.5
    assert all(contrast(text_on(fill), fill) >= 4.5 for fill in FILLS)


def test_a_png_is_a_picture() -> None:
    pytest.importorskip("resvg_py", reason="PNG files need resvg: pip install 'hios-tvm[plot]'")
    png = to_png(draw_graph(OperatorView(MANIFEST), {}))
    assert png.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(png[16:20], "big") > 500  # the width


@pytest.mark.parametrize("ms", [-1.0, 0.0, 5e-324, 1.0, 1e308])
def test_names_are_text_and_nothing_else(ms: float) -> None:
    """Markup, mathematics, control characters, and letters that fonts lack; many of them."""
    name = 9 * HOSTILE
    program = Program(name, 0, (Call(name, "k", ("x", "a")),))
    items = (PredictedOperator(name, ms, 0.0, ms),)
    devices = (replace(MANIFEST.devices[0], name=name),)
    manifest = replace(MANIFEST, devices=devices, programs=(program,), prediction=Prediction(items))
    view = OperatorView(manifest)
    predicted = predicted_timeline(view)
    assert predicted is not None
    for picture in (
        draw_timelines(view.streams, {name: predicted}),
        draw_graph(view, {name: ms}),
    ):
        svg = to_svg(picture)
        tags = {element.tag for element in ElementTree.fromstring(svg).iter()}
        assert f"{SVG}script" not in tags
        assert any("<script>" in text for text in texts(svg, "title"))
