from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.errors import ArtifactError
from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
from hios_tvm.schema.manifest import (
    FORMAT_VERSION,
    Buffer,
    DeviceSpec,
    Manifest,
    OutputError,
    PredictedOperator,
    PredictedTransfer,
    Prediction,
    TensorSpec,
    Verification,
)
from hios_tvm.schema.program import Call, Copy, Program, Signal, Wait
from hios_tvm.schema.recipe import Recipe
from hios_tvm.schema.strict_json import encode, parse

NAMES = st.text(min_size=1, max_size=8)
SIZES = st.integers(0, 2**53)
SHAPES = st.lists(st.integers(0, 100), max_size=4).map(tuple)
DTYPES = st.sampled_from(["float32", "int64", "bool", "bfloat16"])
INSTRUCTIONS = st.one_of(
    st.builds(Call, NAMES, NAMES, st.lists(NAMES, max_size=3).map(tuple), st.integers(0, 3)),
    st.builds(Copy, NAMES, NAMES),
    st.builds(Signal, SIZES),
    st.builds(Wait, SIZES),
)
SPECS = st.builds(TensorSpec, NAMES, NAMES, SHAPES, DTYPES)
PLAIN = st.dictionaries(NAMES, st.one_of(st.none(), st.booleans(), st.text(), st.lists(SIZES)))


def lists(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=4).map(tuple)


TIMES = st.floats(0, 1e9)
GRAPH = OperatorGraph(
    "g",
    (Operator("a", "k", ("x", "w"), ("y",)),),
    (Tensor("x", (1,), "float32"), Tensor("w", (1,), "float32"), Tensor("y", (1,), "float32")),
    inputs=("x",),
    constants=("w",),
    outputs=("y",),
)
MANIFESTS = st.builds(
    Manifest,
    tvm_version=NAMES,
    model=NAMES,
    inputs=lists(SPECS),
    outputs=lists(SPECS),
    devices=lists(
        st.builds(
            DeviceSpec, NAMES, st.just("cpu"), st.none() | NAMES, st.text(), lists(NAMES), SIZES
        )
    ),
    programs=lists(st.builds(Program, NAMES, SIZES, lists(INSTRUCTIONS))),
    buffers=lists(
        st.builds(
            Buffer,
            NAMES,
            st.none() | NAMES,
            st.sampled_from(["input", "output", "param", "arena"]),
            SHAPES,
            DTYPES,
            st.none() | SIZES,
        )
    ),
    schedule=PLAIN,
    prediction=st.builds(
        Prediction,
        lists(st.builds(PredictedOperator, NAMES, TIMES, TIMES, TIMES)),
        lists(st.builds(PredictedTransfer, NAMES, NAMES, TIMES, TIMES)),
        st.none() | TIMES,
        st.dictionaries(NAMES, TIMES),
        TIMES,
    ),
    graph=st.none() | st.just(GRAPH),
    recipe=st.builds(
        Recipe,
        targets=st.dictionaries(NAMES, st.text()),
        precision=st.sampled_from(["fp32", "tf32", "fp16"]),
        merge_convolutions=st.booleans(),
        traces=st.dictionaries(NAMES, st.text()),
        dtypes=lists(DTYPES),
    ),
    compile_info=PLAIN,
    verification=st.builds(
        Verification,
        st.booleans(),
        st.text(),
        st.text(),
        lists(SIZES),
        SIZES,
        lists(st.builds(OutputError, NAMES, TIMES, TIMES)),
        lists(st.text()),
    ),
    entries=st.dictionaries(NAMES, NAMES),
)


@settings(deadline=None, max_examples=100)
@given(MANIFESTS)
def test_json_restores_an_equal_manifest(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_manifests_that_know_of_no_verification_still_load() -> None:
    data = _small()
    del data["verification"]
    found = Manifest.from_json(json.dumps(data).encode()).verification
    assert found == Verification()
    assert not found.verified and found.reason


def _small() -> dict[str, Any]:
    manifest = Manifest(
        tvm_version="0.27",
        model="m",
        inputs=(TensorSpec("x", "x", (1, 2), "float32"),),
        outputs=(),
        devices=(DeviceSpec("cpu@0", "cpu", None, "llvm", (), 64),),
        programs=(Program("cpu@0", 0, (Call("a", "k", ("x",)), Signal(0))),),
        buffers=(Buffer("x", None, "input", (1, 2), "float32"),),
    )
    data: dict[str, Any] = json.loads(manifest.to_json())
    return data


DEFECTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (
        lambda m: m.update(format_version=FORMAT_VERSION + 1),
        f"version {FORMAT_VERSION + 1}, this runtime reads",
    ),
    "no version": (lambda m: m.pop("format_version"), "version None"),
    "unknown field": (lambda m: m.update(evil=1), "manifest has unknown field 'evil'"),
    "missing field": (lambda m: m.pop("buffers"), "manifest has no field 'buffers'"),
    "graph with a cycle": (
        lambda m: m.update(graph=json.loads(json.dumps(encode(GRAPH)).replace('"w"', '"y"'))),
        "manifest.graph: tensor names must be unique",
    ),
    "unknown precision": (lambda m: m["recipe"].update(precision="int8"), "one of"),
    "unknown field inside": (
        lambda m: m["buffers"][0].update(strides=[]),
        r"buffers\[0\] has unknown field 'strides'",
    ),
    "text for a number": (lambda m: m["buffers"][0].update(offset="0"), r"buffers\[0\].offset"),
    "negative": (lambda m: m["devices"][0].update(arena_bytes=-1), "whole number"),
    "huge": (lambda m: m["devices"][0].update(arena_bytes=2**60), "whole number"),
    "truth for a number": (lambda m: m["programs"][0].update(stream=True), "whole number"),
    "fraction": (lambda m: m["programs"][0].update(stream=0.5), "whole number"),
    "unknown space": (lambda m: m["buffers"][0].update(space="stack"), "one of"),
    "unknown instruction": (
        lambda m: m["programs"][0].update(instructions=[["exec", "rm"]]),
        r"instructions\[0\] must be a list that begins with one of call, copy, signal, wait",
    ),
    "short instruction": (
        lambda m: m["programs"][0].update(instructions=[["copy", "x"]]),
        "2 fields after 'copy'",
    ),
    "object for a list": (lambda m: m.update(inputs={}), "manifest.inputs must be a list"),
    "list for an object": (lambda m: m.update(inputs=[[]]), r"manifest.inputs\[0\] must be an obj"),
    "number beyond floats": (
        lambda m: m.update(prediction={"makespan_ms": 10**400}),
        r"manifest.prediction.makespan_ms must be at most 2\*\*53",
    ),
    "schedule is no object": (lambda m: m.update(schedule=[]), "manifest.schedule"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_what_is_not_declared_is_refused(name: str) -> None:
    change, message = DEFECTS[name]
    data = _small()
    change(data)
    with pytest.raises(ArtifactError, match=message):
        Manifest.from_json(json.dumps(data).encode())


def test_half_a_character_is_refused() -> None:
    assert parse(r'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}
    with pytest.raises(ArtifactError, match="surrogates not allowed"):
        parse(r'{"a": "\ud83d"}')


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"{", b"[" * 100_000, b'{"a": NaN}', b'{"a":1,"a":1}', b"1" * 10_000, b"[]"],
    ids=lambda text: text[:12].decode(errors="replace"),
)
def test_broken_json_is_refused(text: bytes) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(text)
