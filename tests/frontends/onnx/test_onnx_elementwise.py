"""Operators on single elements, of all types, against ONNX Runtime or ONNX's reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper
from onnx_models import (
    NodeCase,
    assert_cases_agree,
    assert_same_outputs,
    case,
    feeds_of,
    joined_model,
    make_model,
    node,
    noise,
    run_module,
)
from tvm import relax

from hios_tvm import onnx_backend
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import lower
from hios_tvm.errors import ModelError, UnsupportedOperatorError
from hios_tvm.frontends.onnx import from_onnx

NAN, INF = np.nan, np.inf
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
LEFT = [7, -7, 7, -7, 5, 0, 1, 127, -128, 100]
RIGHT = [2, 2, -2, -2, 3, 3, 7, 5, 4, 63]
REALS = [-3.5, -2.5, -1.5, -1, -0.7, -0.5, -1e-3, 0, 1e-3, 0.3, 0.5, 1, 1.5, 2.5, 20, -20, 7]
FUNCTIONS = (
    *("Abs", "Neg", "Ceil", "Floor", "Round", "Sign", "Sqrt", "Exp", "Log", "Reciprocal", "Erf"),
    *("Sigmoid", "Tanh", "Softplus", "Softsign", "Elu", "Selu", "Celu", "Relu", "LeakyRelu"),
    *("ThresholdedRelu", "HardSigmoid", "HardSwish", "Gelu", "Mish", "Shrink", "Sin", "Cos"),
    *("Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "IsNaN", "IsInf"),
)


def run_pipeline(cases: dict[str, NodeCase], opset: int) -> dict[str, np.ndarray]:
    """Outputs of the kernels that this package compiles, by label, without checks of values."""
    model = joined_model(cases, opset=opset)
    module, target = lower(from_onnx(model), host_target()), host_target()
    machine = relax.VirtualMachine(tvm.compile(module, target), tvm.cpu())
    result = machine["main"](*map(tvm.runtime.tensor, feeds_of(cases).values()))
    tensors = [result] if isinstance(result, tvm.runtime.Tensor) else result
    return dict(zip(cases, (tensor.numpy() for tensor in tensors), strict=False))


# --- Against ONNX Runtime


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers(dtype: str) -> None:
    a, b = (np.array(values).astype(dtype) for values in (LEFT, RIGHT))
    two = ("Add", "Sub", "Mul", "Max", "Min", "Mod", "Equal", "Less", "Greater", "LessOrEqual")
    cases = {op: case(op, {"a": a, "b": b}) for op in two}
    cases["Div"] = case("Div", {"a": a, "b": b})
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        cases[op] = case(op, {"a": a, "b": b})
    for op in ("Abs", "Sign", "BitwiseNot", *(["Neg", "Relu"] if dtype[0] == "i" else [])):
        cases[op] = case(op, {"a": a})
    bounds = {"low": np.array(1, dtype), "high": np.array(5, dtype)}
    cases["Clip"] = case("Clip", {"a": a}, bounds)
    cases["Where"] = case("Where", {"c": a > b, "a": a, "b": b})
    if dtype[0] == "i":
        cases["Shrink"] = case("Shrink", {"a": a}, lambd=1.5, bias=1.25)
    if dtype[0] == "u":
        places = np.arange(len(a)).astype(dtype) % np.iinfo(dtype).bits
        for direction in ("LEFT", "RIGHT"):
            cases[direction] = case("BitShift", {"a": a, "p": places}, direction=direction)
    if np.iinfo(dtype).bits >= 32 and dtype[0] == "i":
        cases["Pow"] = case("Pow", {"a": a, "b": np.abs(b) % 5})
        cases["real Pow"] = case("Pow", {"a": a, "b": (np.abs(b) % 5).astype("float32")})
    assert_cases_agree(cases, opset=20, reference=True)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 2e-5), ("float64", 1e-6)])
def test_functions(dtype: str, rtol: float) -> None:
    x = np.array(REALS, dtype)
    cases = {op: case(op, {"x": x + 1 if op == "Reciprocal" else x}) for op in FUNCTIONS}
    cases["tanh"] = case("Gelu", {"x": x}, approximate="tanh")
    is_double = dtype == "float64"  # of which ONNX Runtime lacks some
    gelu = cases.pop("Gelu")  # the reference has its constants in single precision
    with np.errstate(all="ignore"):
        assert_cases_agree(cases, opset=20, rtol=rtol, atol=1e-8, reference=is_double)
        if not is_double:  # ONNX Runtime's formula cancels for negative values
            assert_cases_agree({"Gelu": gelu}, opset=20, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_functions_of_16_bit_floats_are_computed_in_single_precision(
    dtype: str, rtol: float
) -> None:
    element = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    x = np.array(REALS).astype(element)
    results = run_pipeline({op: case(op, {"x": x}) for op in FUNCTIONS}, 20)
    wide = run_pipeline({op: case(op, {"x": x.astype("float32")}) for op in FUNCTIONS}, 20)
    for op in FUNCTIONS:
        assert results[op].dtype == (bool if op in ("IsNaN", "IsInf") else element), op
        with np.errstate(over="ignore"):
            exact = wide[op].astype(results[op].dtype).astype("float64")
        actual = results[op].astype("float64")
        np.testing.assert_allclose(actual, exact, rtol=rtol, err_msg=op)


def test_casts_between_all_types() -> None:
    values = [5.3, -5.3, 1e5, -1e5, 0.5, -0.5, 70000, 0.0, 2, -1e10, INF, -INF, 3e9]
    cases = {}
    for source in ("float32", "float64", "float16", *INTEGERS, "bool"):
        with np.errstate(all="ignore"):
            whole = np.array([x for x in values if abs(x) < 1e9]).astype("int64")
            x = np.array(values).astype(source) if "f" in source else whole.astype(source)
        for to in ("FLOAT", "DOUBLE", "FLOAT16", "BOOL", *map(str.upper, INTEGERS)):
            if to == "UINT32" and "f" in source:  # ONNX Runtime's results depend on the position
                continue
            cases[f"{source} {to}"] = case("Cast", {"x": x}, to=getattr(TensorProto, to))
    assert_cases_agree(cases, opset=19)


def test_remainders_and_powers_of_floats() -> None:
    a = np.array([5.3, -5.3, 5.3, -5.3, INF, -INF, NAN, 1, 3, 1e-3, 2], np.float32)
    b = np.array([2, 2, -2, -2, 3, 3, 1, NAN, INF, -INF, 0], np.float32)
    exponent = {"e": np.array(3, np.int64)}
    cases = {
        "remainder": case("Mod", {"a": a, "b": b}, fmod=1),
        "power": case("Pow", {"a": a, "b": b}),
        "cube": case("Pow", {"a": a}, exponent),
        "square": case("Pow", {"a": a}, {"e": np.array([2.0], np.float32)}),
    }
    assert_cases_agree(cases, rtol=1e-6)


def test_truth_values() -> None:
    a, b = np.array([True, False, True, False]), np.array([True, True, False, False])
    cases = {op: case(op, {"a": a, "b": b}) for op in ("And", "Or", "Xor", "Equal")}
    cases |= {"Not": case("Not", {"a": a}), "Where": case("Where", {"c": a, "a": a, "b": b})}
    assert_cases_agree(cases, reference=True)


# --- What is not a number


def test_what_is_not_a_number_stays_so() -> None:
    x = np.array([NAN, -1, 2, -INF, INF] * 4, np.float32)
    y = np.array([1, NAN, 3, 4, 5] * 4, np.float32)
    one = {"b": np.array(1, np.float32)}
    cases = {
        "Relu": case("Relu", {"x": x}),
        "Clip": case("Clip", {"x": x}, {"low": np.array(0, np.float32), **one}),
        "Max": case("Max", {"a": x, "b": y}),
        "Min": case("Min", {"a": x, "b": y}),
        "four": case("Min", {"a": x, "b": y, "c": x, "d": y}),
        "number": case("Max", {"x": x}, one),
        "HardSwish": case("HardSwish", {"x": x}),
        "Sign": case("Sign", {"x": x}),
        "Cast": case("Cast", {"x": x}, to=TensorProto.BOOL),
    }
    results = run_pipeline(cases, 17)
    low, high = np.minimum(x, y), np.maximum(x, y)
    with np.errstate(invalid="ignore"):
        expected = {
            "Relu": np.maximum(x, 0),
            "Clip": np.clip(x, 0, 1),
            "Max": high,
            "Min": low,
            "four": low,
            "number": np.maximum(x, 1),
            "HardSwish": x * np.clip(x / 6 + 0.5, 0, 1),
            "Sign": np.sign(x),
            "Cast": x.astype(bool),
        }
    for label, values in expected.items():
        np.testing.assert_allclose(results[label], values, rtol=1e-6, err_msg=label)


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_a_comparison_and_its_opposite_may_both_be_false(op: str) -> None:
    nodes = [helper.make_node(op, ["x", "y"], ["c"]), helper.make_node("Not", ["c"], ["n"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    outputs = [onnx.ValueInfoProto(name="n")]
    graph = helper.make_graph(nodes, "g", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    target = host_target()
    machine = relax.VirtualMachine(tvm.compile(lower(from_onnx(model), target), target), tvm.cpu())
    x, y = np.array([[NAN, 1, 2, 0], [1, NAN, 1, 0]], np.float32)
    compare = {
        "Equal": np.equal,
        "Less": np.less,
        "LessOrEqual": np.less_equal,
        "Greater": np.greater,
        "GreaterOrEqual": np.greater_equal,
    }
    result = machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(y))
    result = result if isinstance(result, tvm.runtime.Tensor) else result[0]
    np.testing.assert_array_equal(result.numpy(), ~compare[op](x, y))


def test_a_sum_of_16_bit_floats_is_rounded_before_it_is_converted() -> None:
    x = np.array([0.9995, 0.999, 0.9985, 0.998], np.float16)
    nodes = [
        helper.make_node("Add", ["x", "seven"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=TensorProto.INT32),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [4])],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(np.array(7, np.float16), "seven")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    target = host_target()
    machine = relax.VirtualMachine(tvm.compile(lower(from_onnx(model), target), target), tvm.cpu())
    result = machine["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_array_equal(result, (x + np.float16(7)).astype("int32"))


# --- By the standard alone


def test_quotients_of_integers_do_not_trap() -> None:
    """By zero the result is zero, as NumPy's; the least number by -1 is itself."""
    least = np.iinfo("int32").min
    a, b = np.array([7, least, -7, least], "int32"), np.array([0, -1, -1, 2], "int32")
    cases = {"div": case("Div", {"a": a, "b": b}), "mod": case("Mod", {"a": a, "b": b})}
    results = run_pipeline(cases, 17)
    np.testing.assert_array_equal(results["div"], [0, least, 7, least // 2])
    np.testing.assert_array_equal(results["mod"], [0, 0, 0, 0])


def test_broadcasting_of_old_opsets_begins_at_an_axis() -> None:
    a, b = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.array([1, 2, 3], np.float32)
    results = run_pipeline({"add": case("Add", {"a": a, "b": b}, broadcast=1, axis=1)}, 6)
    np.testing.assert_array_equal(results["add"], a + b[:, None])
    results = run_pipeline({"relu": case("PRelu", {"a": a - 12, "b": b})}, 6)
    np.testing.assert_array_equal(results["relu"], np.where(a < 12, (a - 12) * b[:, None], a - 12))


def test_bits_of_another_type() -> None:
    x = np.array([1.5, -2.0, 0.0], np.float32)
    results = run_pipeline({"bits": case("BitCast", {"x": x}, to=TensorProto.INT32)}, 26)
    np.testing.assert_array_equal(results["bits"], x.view("int32"))


def test_types_and_modes_that_are_refused() -> None:
    x = np.zeros(3, np.float32)
    for number in (TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.STRING):
        with pytest.raises(UnsupportedOperatorError, match=TensorProto.DataType.Name(number)):
            from_onnx(joined_model({"c": case("Cast", {"x": x}, to=number)}, opset=21))
    with pytest.raises(UnsupportedOperatorError, match="training mode"):
        from_onnx(joined_model({"d": case("Dropout", {"x": x})}, opset=6))
    with pytest.raises(ModelError, match="2 dimensions do not fit axis 2 of 3"):
        wide = {"a": np.zeros((2, 3, 4), np.float32), "b": np.zeros((3, 4), np.float32)}
        bad = case("Add", wide, broadcast=1, axis=2)
        from_onnx(joined_model({"a": bad}, opset=6))


def test_mish_keeps_its_digits() -> None:
    model = make_model([node("Mish", "x", "y")], {"x": (41,)}, ["y"], opset=18)
    x = np.linspace(-20, 20, 41, dtype=np.float32)
    expected = x.astype(np.float64) * np.tanh(np.log1p(np.exp(x.astype(np.float64))))
    np.testing.assert_allclose(run_module(from_onnx(model), x)[0], expected, rtol=1e-5)


def test_softplus_keeps_its_digits() -> None:
    model = make_model([node("Softplus", "x", "y")], {"x": [2001]}, ["y"])
    data = np.linspace(-20, 20, 2001, dtype=np.float32)
    (result,) = run_module(from_onnx(model), data)
    np.testing.assert_allclose(result, np.log1p(np.exp(data.astype(np.float64))), rtol=2e-5)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "uint32"])
def test_shifts_by_too_much_leave_only_the_sign(direction: str, dtype: str) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shift = node("BitShift", "x p", "y", direction=direction)
    model = make_model([shift], {"x": [6], "p": [6]}, ["y"], element=element)
    bits = np.iinfo(dtype).bits
    signed = dtype.startswith("int")
    data = np.array([5, -8, 4, -1, 3, -7] if signed else [5, 8, 4, 1, 3, 7], dtype)
    places = np.array([1, 2, bits, bits + 1, -1 if signed else 100, 100], dtype)
    (result,) = run_module(from_onnx(model), data, places)
    wide, inside = data.astype(np.int64), (places >= 0) & (places.astype(np.int64) < bits)
    within = np.where(inside, places, 0).astype(np.int64)
    if direction == "LEFT":
        expected = np.where(inside, wide << within, 0)
    else:
        expected = np.where(inside, wide >> within, wide >> 63)
    np.testing.assert_array_equal(result, expected.astype(dtype))


def test_remainders_of_infinities() -> None:
    model = make_model([node("Mod", "x d", "y", fmod=0)], {"x": [10], "d": [10]}, ["y"], opset=13)
    infinity = np.inf
    data = np.array([-3, 3, -1, 1, 0, infinity, 1, 5, -5, np.nan], np.float32)
    divisors = np.array(
        [infinity, infinity, -infinity, -infinity, infinity, 2, 0, 3, 3, infinity], np.float32
    )
    (result,) = onnx_backend.run_model(model, [data, divisors])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(result, np.mod(data, divisors))


INFINITE = [node("Mul", "x huge", "h"), node("Mul", "h huge", "i")]

CHAINS = {
    "slope of a channel": [node("PRelu", "x slope", "y")],
    "one slope": [node("PRelu", "x half", "y")],
    "dropout and its mask": [node("Dropout", "x", "y m")],
    "positive infinity": [*INFINITE, node("IsInf", "i", "y", detect_negative=0)],
    "negative infinity": [*INFINITE, node("IsInf", "i", "y", detect_positive=0)],
    "any infinity": [*INFINITE, node("IsInf", "i", "y")],
    "hyperbolic": [node("Sinh", "x", "s"), node("Cosh", "x", "c"), node("Mul", "s c", "y")],
    "hyperbolic near zero": [
        node("Constant", "", "tiny", value_float=1e-3),
        node("Mul", "x tiny", "t"),
        node("Sinh", "t", "y"),
    ],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_elementwise_operators_that_tvm_lacks_or_converts_wrongly(chain: str) -> None:
    outputs = ["y", *(["m"] if "m" in CHAINS[chain][-1].output else [])]
    weights = {
        "slope": np.array([[0.1], [-0.2]], np.float32),
        "half": np.array(0.5, np.float32),
        "huge": np.array([1e38, 1, 1e38], np.float32),
    }
    model = make_model(CHAINS[chain], {"x": (2, 3)}, outputs, weights)
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 3)})


def test_casts_before_version_6_name_their_type() -> None:
    model = make_model([node("Cast", "x", "y", to="INT32")], {"x": (3,)}, ["y"], opset=5)
    (result,) = run_module(from_onnx(model), np.array([1.5, -2.0, 3.0], np.float32))
    np.testing.assert_array_equal(result, np.array([1, -2, 3], np.int32))
    model = make_model([node("Cast", "x", "y", to="NOPE")], {"x": (3,)}, ["y"], opset=5)
    with pytest.raises(ModelError, match="to is 'NOPE', which is no element type"):
        from_onnx(model)
