"""Indices, lengths and divisors that inputs hold: valid ones as in ONNX Runtime, others refused.

Each operator is compiled once. Hypothesis draws values inside and outside of their range; after
each refusal the next run of the session is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_cases import (
    CASES,
    DIVISIONS,
    INT64,
    Array,
    Case,
    compiled,
    division_model,
    is_ambiguous,
    model_of,
)
from onnx_models import make_model, node, noise

import hios_tvm
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import lower
from hios_tvm.errors import InputError, ModelError
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.frontends.relay import from_relay
from hios_tvm.schema.value_checks import CHECKS
from hios_tvm.verification.relax_reference import RelaxReference


@dataclass(frozen=True)
class Pair:
    """A compiled model, and the same one in ONNX Runtime."""

    case: Case
    ours: hios_tvm.Session
    theirs: onnxruntime.InferenceSession

    def feeds(self, values: Array) -> dict[str, Array]:
        return {**self.case.others, self.case.name: values}

    def assert_same(self, values: Array) -> None:
        feeds = self.feeds(values)
        (expected,) = self.theirs.run(["y"], feeds)
        np.testing.assert_allclose(self.ours.run(feeds)["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module", params=list(CASES))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    case = CASES[request.param]
    model = model_of(case)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    theirs = onnxruntime.InferenceSession(model.SerializeToString(), options)
    path = tmp_path_factory.mktemp("values") / "model.hios"
    with compiled(from_onnx(model), path) as session:
        yield Pair(case, session, theirs)


def valid(case: Case) -> st.SearchStrategy[Array]:
    """Arrays of valid values; the last dimension has as many as there are ranges, or any."""
    info = np.iinfo(case.dtype)
    ranges = [
        st.integers(max(low, info.min), min(high, info.max))
        for low, high in zip(case.low, case.high, strict=True)
    ]
    count = int(np.prod(case.shape))
    chosen = st.tuples(*(ranges[i % len(ranges)] for i in range(count)))
    arrays = chosen.map(lambda values: np.array(values, case.dtype).reshape(case.shape))
    return arrays.filter(lambda array: not is_ambiguous(case, array))


def invalid(case: Case) -> st.SearchStrategy[tuple[Array, int]]:
    """Arrays with one value that is not valid, and that value."""
    info = np.iinfo(case.dtype)

    def spoiled(drawn: tuple[Array, int, bool, int]) -> tuple[Array, int]:
        values, place, is_below, far = drawn
        values = values.copy()
        column = place % len(case.low)
        low, high = case.low[column], case.high[column]
        distance = min(far, (low - int(info.min)) if is_below else int(info.max) - high)
        values.flat[place] = low - distance if is_below else high + distance
        return values, int(values.flat[place])

    count = int(np.prod(case.shape))
    far = st.one_of(st.integers(1, 3), st.integers(1, 2**62), st.just(2**63))
    drawn = st.tuples(valid(case), st.integers(0, count - 1), st.booleans(), far)
    return drawn.map(spoiled)


CHECK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(data=st.data())
@CHECK
def test_valid_values_give_the_result_of_onnx_runtime(pair: Pair, data: st.DataObject) -> None:
    pair.assert_same(data.draw(valid(pair.case)))


@given(data=st.data())
@CHECK
def test_invalid_values_are_named_and_the_next_run_is_right(
    pair: Pair, data: st.DataObject
) -> None:
    if pair.case.low == (INT64.min,):
        return  # all values are valid
    values, wrong = data.draw(invalid(pair.case))
    with pytest.raises(InputError, match=rf"{pair.case.node.op_type} .* {wrong};"):
        pair.ours.run(pair.feeds(values))
    pair.assert_same(data.draw(valid(pair.case)))


@pytest.mark.parametrize("wrong", [9.0, -1.0, 1e30, -np.inf])
def test_regions_of_an_image_that_is_not_there(wrong: float, tmp_path: Path) -> None:
    """The number of the image is a float, beside the corners of the region."""
    made = node("MaxRoiPool", "x r", "y", pooled_shape=[2, 2])
    model = make_model([made], {"x": [9, 1, 6, 6], "r": [2, 5]}, ["y"])
    feeds = {"x": noise(9, 1, 6, 6), "r": np.array([[8, 0, 0, 4, 4], [0, 1, 1, 5, 5]], np.float32)}
    spoiled = feeds["r"].copy()
    spoiled[1, 0] = wrong
    theirs = onnxruntime.InferenceSession(model.SerializeToString())
    with compiled(from_onnx(model), tmp_path / "m.hios") as session:
        with pytest.raises(InputError, match="MaxRoiPool 'y' got the index"):
            session.run({**feeds, "r": spoiled})
        (expected,) = theirs.run(["y"], feeds)
        np.testing.assert_allclose(session.run(feeds)["y"], expected, rtol=1e-6)


@pytest.mark.parametrize("wrong", [1e9, np.inf, np.nan])
def test_regions_so_large_that_a_run_would_not_end(wrong: float, tmp_path: Path) -> None:
    """Without a sampling_ratio, the size of a region says how many samples it has."""
    weights = {"b": np.zeros(2, np.int64)}
    made = node("RoiAlign", "x r b", "y", output_height=2, output_width=2)
    model = make_model([made], {"x": [1, 2, 6, 6], "r": [2, 4]}, ["y"], weights)
    feeds = {"x": noise(1, 2, 6, 6), "r": np.array([[-3, -3, 40, 9], [5, 5, 1, 1]], np.float32)}
    spoiled = feeds["r"].copy()
    spoiled[1, 2] = wrong
    theirs = onnxruntime.InferenceSession(model.SerializeToString())
    with compiled(from_onnx(model), tmp_path / "m.hios") as session:
        with pytest.raises(InputError, match="RoiAlign 'y' got the length 71; valid are 0 to 70"):
            session.run({**feeds, "r": spoiled})
        (expected,) = theirs.run(["y"], feeds)
        np.testing.assert_allclose(session.run(feeds)["y"], expected, rtol=1e-5, atol=1e-6)


# --- Values that are proven to be valid


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ArgMax", "x", "i", axis=0, keepdims=0), node("Gather", "x i", "y")],
        [node("TopK", "x k", "v i", axis=0), node("GatherElements", "x i", "y")],
        [
            node("ArgMin", "x", "j", axis=1),
            node("Reshape", "j s", "i"),
            node("Gather", "x i", "y", axis=1),
        ],
        [node("Greater", "x z", "b"), node("Cast", "b", "i", to=7), node("Gather", "x i", "y")],
        [node("ArgMax", "x", "j"), node("Add", "j one", "d"), node("Div", "ten d", "y")],
    ],
    ids=lambda nodes: f"{nodes[0].op_type} {nodes[-1].op_type}",
)
def test_what_is_proven_is_not_checked(nodes: list[onnx.NodeProto]) -> None:
    weights = {
        "k": np.array([2]),
        "s": np.array([-1]),
        "z": np.array(0, np.float32),
        "one": np.array(1),
        "ten": np.array(10),
    }
    used = {name for one in nodes for name in one.input}
    weights = {name: array for name, array in weights.items() if name in used}
    model = make_model(nodes, {"x": [4, 6]}, ["y"], weights, opset=18)
    assert CHECKS not in lower(from_onnx(model), host_target())["main"].attrs


def test_what_is_not_proven_is_checked() -> None:
    """The sum of two positions may be outside."""
    nodes = [
        node("ArgMax", "x", "i", axis=0),
        node("Add", "i i", "j"),
        node("Gather", "x j", "y"),
    ]
    model = make_model(nodes, {"x": [4, 6]}, ["y"], opset=18)
    assert CHECKS in lower(from_onnx(model), host_target())["main"].attrs


# --- Divisions of integers


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.int8])
@pytest.mark.parametrize("name", DIVISIONS)
def test_divisions_without_a_result_are_refused(
    name: str, dtype: type[np.generic], tmp_path: Path
) -> None:
    model = division_model(DIVISIONS[name], dtype)
    info = np.iinfo(dtype)
    good = {"a": np.array([7, info.min, 120], dtype), "i": np.array([2, 3, 5], dtype)}
    by_zero = {**good, "i": np.array([2, 0, 5], dtype)}
    by_minus_one = {**good, "i": np.array([2, -1 % 2**8 if info.min == 0 else -1, 5], dtype)}
    reference = onnxruntime.InferenceSession(model.SerializeToString())
    with compiled(from_onnx(model), tmp_path / "m.hios") as session:
        (expected,) = reference.run(["y"], good)
        np.testing.assert_array_equal(session.run(good)["y"], expected)
        with pytest.raises(InputError, match=rf"{name.split()[0]} 'y' .* by 0"):
            session.run(by_zero)
        if name == "Div" and info.min < 0:
            with pytest.raises(InputError, match=r"Div 'y' .* of the least number by -1"):
                session.run(by_minus_one)
        else:
            assert session.run(by_minus_one)["y"][1] == 0
        np.testing.assert_array_equal(session.run(good)["y"], expected)


@pytest.mark.parametrize("name", ["Div", "Mod"])
@pytest.mark.parametrize("is_known", [False, True])
def test_constant_divisors_of_zero_are_errors_of_the_model(name: str, is_known: bool) -> None:
    inputs: dict[str, Any] = {"b": [3]} if is_known else {"a": [3], "b": [3]}
    weights = {"i": np.array([1, 0, 2])} | ({"a": np.array([1, 2, 3])} if is_known else {})
    nodes = [node(name, "a i", "c"), node("Add", "b c", "y")]
    model = make_model(nodes, inputs, ["y"], weights, element=onnx.TensorProto.INT64)
    with pytest.raises(ModelError, match=f"{name} 'c': it divides integers by 0"):
        from_onnx(model)


def test_a_constant_quotient_that_does_not_fit_is_an_error_of_the_model() -> None:
    weights = {"a": np.array([INT64.min]), "i": np.array([-1])}
    nodes = [node("Div", "a i", "c"), node("Add", "b c", "y")]
    model = make_model(nodes, {"b": [1]}, ["y"], weights, element=onnx.TensorProto.INT64)
    with pytest.raises(ModelError, match=r"Div 'c': it divides .* by -1"):
        from_onnx(model)


# --- Relay programs

TABLE = "%x: Tensor[(4, 3), float32]"
RELAY = {
    "take": (f"{TABLE}, %i: Tensor[(2), int32]", 'take(%x, %i, axis=0, mode="fast")', 4),
    "gather": (f"{TABLE}, %i: Tensor[(4, 2), int64]", "gather(%x, %i, axis=1)", 3),
    "gather_nd": (f"{TABLE}, %i: Tensor[(1, 2), int64]", "gather_nd(%x, %i)", 4),
    "scatter": (
        f"{TABLE}, %i: Tensor[(1, 3), int64], %u: Tensor[(1, 3), float32]",
        "scatter(%x, %i, %u, axis=0)",
        4,
    ),
    "scatter_nd": (
        f"{TABLE}, %i: Tensor[(1, 2), int64], %u: Tensor[(2, 3), float32]",
        'scatter_nd(%x, %i, %u, mode="add")',
        4,
    ),
    "adv_index": (f"{TABLE}, %i: Tensor[(2), int64]", "adv_index((%x, %i))", 4),
    "reverse_sequence": (
        f"{TABLE}, %i: Tensor[(3), int64]",
        "reverse_sequence(%x, %i, seq_axis=0, batch_axis=1)",
        5,
    ),
}
RELAY_DIVISIONS = ("divide", "floor_divide", "mod", "floor_mod", "trunc_divide", "trunc_mod")


def relay_module(parameters: str, body: str) -> Any:
    return from_relay(f'#[version = "0.0.5"]\ndef @main({parameters}) {{\n  {body}\n}}\n')


def zeros_of(session: hios_tvm.Session) -> dict[str, Array]:
    return {
        spec.name: noise(*spec.shape)
        if spec.dtype == "float32"
        else np.zeros(spec.shape, spec.dtype)
        for spec in session.inputs
    }


@pytest.mark.parametrize("name", RELAY)
def test_relay_programs_refuse_indices_outside(name: str, tmp_path: Path) -> None:
    parameters, body, extent = RELAY[name]
    module = relay_module(parameters, body)
    reference = RelaxReference(module)
    with compiled(module, tmp_path / "m.hios") as session:
        feeds = zeros_of(session)
        for wrong in (extent, 2**31 - 1, -extent - 1, -(2**31)):
            spoiled = {**feeds, "i": feeds["i"].copy()}
            spoiled["i"].flat[1] = wrong
            with pytest.raises(InputError, match=rf"{name} \(line 3, .* {wrong};"):
                session.run(spoiled)
            (expected,) = reference.run(feeds).values()
            (result,) = session.run(feeds).values()
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", RELAY_DIVISIONS)
def test_relay_programs_refuse_divisions_without_a_result(name: str, tmp_path: Path) -> None:
    module = relay_module("%a: Tensor[(6), int32], %i: Tensor[(6), int32]", f"{name}(%a, %i)")
    a = np.array([7, -7, 7, -7, 6, -6], np.int32)
    b = np.array([2, 2, -2, -2, 3, -3], np.int32)
    exact = {
        "divide": np.trunc(a / b),
        "trunc_divide": np.trunc(a / b),
        "floor_divide": a // b,
        "mod": np.fmod(a, b),
        "trunc_mod": np.fmod(a, b),
        "floor_mod": a % b,
    }[name]
    least = np.full(6, np.iinfo(np.int32).min, np.int32)
    with compiled(module, tmp_path / "m.hios") as session:
        (result,) = session.run({"a": a, "i": b}).values()
        np.testing.assert_array_equal(result, exact)
        with pytest.raises(InputError, match=rf"{name} .* by 0"):
            session.run({"a": a, "i": b * 0})
        minus_one = {"a": least, "i": b * 0 - 1}
        if "mod" in name:
            (result,) = session.run(minus_one).values()
            np.testing.assert_array_equal(result, 0)
        else:
            with pytest.raises(InputError, match="of the least number by -1"):
                session.run(minus_one)
