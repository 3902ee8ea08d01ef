"""The operator graph of a module."""

from __future__ import annotations

from diamond import SPLIT, Diamond, annotate

from hios_tvm.passes.extract_operator_graph import extract_operator_graph


def test_extract_names_operators_tensors_and_edges() -> None:
    graph = extract_operator_graph(Diamond, "diamond")
    assert [op.name for op in graph.operators] == ["a", "b", "c", "d"]
    assert [op.kernel for op in graph.operators] == ["negate", "add", "negate", "add"]
    assert [(e.src, e.dst, e.nbytes) for e in graph.edges] == [
        ("a", "b", 16),
        ("a", "c", 16),
        ("b", "d", 16),
        ("c", "d", 16),
    ]
    assert graph.inputs == ("x",)
    assert graph.constants == ("weight_0",)
    assert graph.outputs == ("d",)


def test_copies_on_other_devices_are_the_same_tensors() -> None:
    assert extract_operator_graph(annotate(Diamond, SPLIT)) == extract_operator_graph(Diamond)
