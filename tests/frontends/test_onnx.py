from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    assert_same_outputs,
    make_model,
    noise,
    run_module,
    run_onnx_runtime,
)
from tvm import relax

from hios_tvm import onnx_backend, zoo
from hios_tvm.errors import (
    DynamicShapeError,
    ModelError,
    UnsupportedOperatorError,
    UsageError,
)
from hios_tvm.frontends.onnx import from_onnx, load_onnx

LIGHT_MODELS = sorted(
    (Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx")
)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def names(module: tvm.IRModule, which: str) -> list[str]:
    return [str(name) for name in module["main"].attrs[which]]


def shapes(module: tvm.IRModule) -> list[tuple[int, ...]]:
    return [tuple(int(size) for size in var.ty.shape.values) for var in module["main"].params]


# --- The contract of the module


def test_one_dataflow_function_with_constants() -> None:
    weights = {"w": noise(4, 3), "b": noise(4)}
    model = make_model([node("Gemm", "x w b", "y", transB=1)], {"x": (2, 3)}, ["y"], weights)
    module = from_onnx(model)
    assert [var.name_hint for var in module.get_global_vars()] == ["main"]
    main = module["main"]
    assert shapes(module) == [(2, 3)]
    (block,) = main.body.blocks
    assert isinstance(block, relax.DataflowBlock)
    assert isinstance(main.ret_ty, relax.TensorType)
    relax.transform.LegalizeOps()(module)
    assert_same_outputs(module, model, {"x": noise(2, 3)})


def test_names_that_are_no_identifiers_are_kept() -> None:
    model = make_model(
        [node("Sum", "input:0 1 lambda R", "sum/out"), node("Mul", "a.b a_b", "2")],
        {name: (3,) for name in ("input:0", "1", "a.b", "a_b", "lambda", "R")},
        ["2", "sum/out"],
    )
    module = from_onnx(model)
    assert names(module, "input_names") == ["input:0", "1", "a.b", "a_b", "lambda", "R"]
    assert names(module, "output_names") == ["2", "sum/out"]
    variables = [var.name for var in module["main"].params]
    assert len(set(variables)) == len(variables)
    assert isinstance(module["main"].ret_ty, relax.TupleType)
    feeds = {name: noise(3, seed=i) for i, name in enumerate(names(module, "input_names"))}
    assert_same_outputs(module, model, feeds)
    parsed = tvm.script.from_source(module.script(show_meta=True))
    tvm.ir.assert_structural_equal(parsed, module)


def test_inputs_without_use_stay() -> None:
    model = make_model([node("Relu", "x", "y")], {"unused": (2,), "x": (3,)}, ["y"])
    module = from_onnx(model)
    assert names(module, "input_names") == ["unused", "x"]
    assert_same_outputs(module, model, {"unused": noise(2), "x": noise(3)})


def test_outputs_may_be_inputs_constants_shapes_and_repeated() -> None:
    model = make_model(
        [node("Relu", "x", "y"), node("Shape", "x", "s"), node("Identity", "x", "same")],
        {"x": (2, 3)},
        ["y", "s", "same", "w", "x", "y"],
        {"w": noise(2)},
    )
    module = from_onnx(model)
    assert names(module, "output_names") == ["y", "s", "same", "w", "x", "y"]
    x = noise(2, 3)
    outputs = run_module(module, x)
    expected = [np.maximum(x, 0), np.array([2, 3]), x, noise(2), x, np.maximum(x, 0)]
    for actual, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_initializers_listed_as_inputs_are_weights() -> None:
    weights = {"w": noise(4, 3)}
    model = make_model(
        [node("MatMul", "w x", "y")], {"w": (4, 3), "x": (3, 2)}, ["y"], weights, ir_version=3
    )
    module = from_onnx(model)
    assert names(module, "input_names") == ["x"]
    np.testing.assert_allclose(
        run_module(module, noise(3, 2))[0], weights["w"] @ noise(3, 2), rtol=1e-5
    )


def test_node_names_may_repeat() -> None:
    nodes = [node("Relu", "x", "a", name="n"), node("Neg", "a", "y", name="n")]
    model = make_model(nodes, {"x": (4,)}, ["y"])
    (output,) = run_module(from_onnx(model), noise(4))
    np.testing.assert_array_equal(output, -np.maximum(noise(4), 0))


def test_dtypes_are_kept() -> None:
    model = make_model(
        [node("Cast", "x", "y", to=TensorProto.INT32)],
        {"x": (3,)},
        ["y"],
        element=TensorProto.DOUBLE,
    )
    assert_same_outputs(from_onnx(model), model, {"x": np.array([1.5, -2.5, 3.0])})


def test_the_model_in_memory_stays_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    model = zoo.build("squeezenet1_1", height=32, width=32)
    before = model.SerializeToString()
    from_onnx(model)
    assert model.SerializeToString() == before
    assert capfd.readouterr() == ("", "")


# --- Numbers against ONNX Runtime


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet50"])
def test_networks_of_the_zoo(name: str) -> None:
    model = zoo.build(name, height=33, width=32)
    assert_same_outputs(from_onnx(model), model, {"input": noise(1, 3, 33, 32)})


@pytest.mark.parametrize("path", LIGHT_MODELS, ids=lambda path: path.stem)
def test_networks_of_the_onnx_package(path: Path) -> None:
    module = load_onnx(path)
    assert shapes(module) == [(1, 3, 224, 224)]
    relax.transform.LegalizeOps()(module)


def test_recorded_output_of_the_onnx_package() -> None:
    path = next(path for path in LIGHT_MODELS if path.stem == "light_squeezenet")
    recorded = TensorProto()
    recorded.ParseFromString(path.with_name("light_squeezenet_output_0.pb").read_bytes())
    expected = numpy_helper.to_array(recorded)
    # The package's own test feeds these images.
    images = np.arange(1 * 3 * 224 * 224, dtype=np.float32).reshape(1, 3, 224, 224)
    images = images / np.float32(images.size)
    np.testing.assert_allclose(run_module(load_onnx(path), images)[0], expected, rtol=1e-3)


def test_shapes_computed_step_by_step_become_static() -> None:
    """As exporters write ``x.view(x.shape[0], -1)`` and ``w.expand(x.shape)``."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 rest", "flat", axis=0),
        node("Reshape", "x flat", "r"),
        node("ConstantOfShape", "rank", "ones", value=numpy_helper.from_array(np.array([1]))),
        node("Mul", "ones minus", "negative"),
        node("Equal", "s negative", "open"),
        node("Where", "open ones s", "target"),
        node("Expand", "w target", "e"),
        node("Add", "e x", "y"),
    ]
    weights = {
        "zero": np.array(0),
        "axes": np.array([0]),
        "rest": np.array([-1]),
        "minus": np.array([-1]),
        "rank": np.array([3]),
        "w": noise(1, 3, 1),
    }
    model = make_model(nodes, {"x": ("batch", 3, "length")}, ["r", "y"], weights)
    module = from_onnx(model, shapes={"x": (2, 3, 4)})
    assert_same_outputs(module, model, {"x": noise(2, 3, 4)})
    assert len(module["main"].body.blocks[0].bindings) <= 6


def test_operators_on_weights_are_computed_at_import() -> None:
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    model = make_model(nodes, {"x": (2, 3)}, ["y"], {"w": noise(4, 3)})
    module = from_onnx(model)
    calls = [binding.value.op.name for binding in module["main"].body.blocks[0].bindings]
    assert calls == ["relax.matmul"]
    assert_same_outputs(module, model, {"x": noise(2, 3)})


@pytest.mark.parametrize("condition", [True, False])
def test_known_conditions_choose_a_branch(condition: bool) -> None:
    def branch(op: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info("b", TensorProto.FLOAT, (4,))
        weight = numpy_helper.from_array(noise(4), "bias")
        return helper.make_graph([node(op, "r bias", "b")], op, [], [result], [weight])

    nodes = [
        node("Relu", "x", "r"),
        node("If", "c", "i", then_branch=branch("Add"), else_branch=branch("Mul")),
        node("Neg", "i", "y"),
    ]
    model = make_model(nodes, {"x": (4,)}, ["y"], {"c": np.array(condition)})
    assert_same_outputs(from_onnx(model), model, {"x": noise(4)})


def test_functions_of_the_model_are_expanded() -> None:
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Add", ["r", "a"], ["b"])]
    version = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "relu_add", ["a"], ["b"], body, version)
    nodes = [
        helper.make_node("relu_add", ["x"], ["t"], domain="mine"),
        helper.make_node("relu_add", ["t"], ["y"], domain="mine"),
    ]
    model = make_model(nodes, {"x": (4,)}, ["y"], domains=["mine"], functions=[function])
    x = noise(4)
    once = np.maximum(x, 0) + x
    outputs = run_module(from_onnx(model), x)
    np.testing.assert_allclose(outputs[0], np.maximum(once, 0) + once, rtol=1e-6)


def test_functions_of_several_domains_and_versions_and_inside_others() -> None:
    def function(domain: str, name: str, *body: onnx.NodeProto, opset: int = 17) -> Any:
        imports = [helper.make_opsetid(d, v) for d, v in (("", opset), ("a", 1), ("b", 1))]
        return helper.make_function(domain, name, ["p"], ["q"], list(body), imports)

    inner = helper.make_node("Relu", ["p"], ["q"], domain="b")  # not ONNX's own
    functions = [
        function("a", "outer", inner),
        function("b", "Relu", helper.make_node("Neg", ["p"], ["q"])),
        function("a", "old", helper.make_node("Clip", ["p"], ["q"], min=0.0), opset=6),
    ]
    nodes = [
        helper.make_node("outer", ["x"], ["t"], domain="a"),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Sub", ["t", "r"], ["s"]),
        helper.make_node("old", ["s"], ["y"], domain="a"),
    ]
    model = make_model(nodes, {"x": (4,)}, ["y"], domains=["a", "b"], functions=functions)
    x = noise(4)
    expected = np.maximum(-x - np.maximum(x, 0), 0)
    np.testing.assert_allclose(run_module(from_onnx(model), x)[0], expected)


def test_functions_with_attributes_weights_and_branches() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "a": 1]>
    g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}, bool yes = {1}>
    {
        y = If (yes) <
            then_branch = t () => (float[4] s) { s = a.scaled <by = 3.0> (x, w) },
            else_branch = e () => (float[4] s) { s = Neg (x) }>
    }
    <domain: "a", opset_import: ["": 17]>
    scaled <by: float = 2.0> (p, w) => (q)
    {
        k = Constant <value_float: float = @by> ()
        m = Mul (p, k)
        q = Mul (m, w)
    }
    """
    model = onnx.parser.parse_model(text)
    assert_same_outputs(from_onnx(model), model, {"x": noise(4)})


def test_operators_that_the_standard_defines_by_others_are_expanded() -> None:
    model = make_model([node("Celu", "x", "y", alpha=1.5)], {"x": (2, 5)}, ["y"])
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 5)})


INFINITE = [node("Mul", "x huge", "h"), node("Mul", "h huge", "i")]
OPERATORS = {
    "constant of integers": [
        node("Constant", "", "s", value_ints=[3, 2]),
        node("Reshape", "x s", "y"),
    ],
    "constant of a float": [node("Constant", "", "s", value_float=0.5), node("Mul", "x s", "y")],
    "shape as output": [node("Shape", "x", "y")],
    "wide integers": [node("Shape", "x", "s"), node("Add", "s big", "y")],
    "slope of a channel": [node("PRelu", "x slope", "y")],
    "one slope": [node("PRelu", "x half", "y")],
    "dropout and its mask": [node("Dropout", "x", "y m")],
    "positive infinity": [*INFINITE, node("IsInf", "i", "y", detect_negative=0)],
    "negative infinity": [*INFINITE, node("IsInf", "i", "y", detect_positive=0)],
    "any infinity": [*INFINITE, node("IsInf", "i", "y")],
    "1-norm": [node("LpNormalization", "x", "y", p=1, axis=0)],
    "2-norm": [node("LpNormalization", "x", "y")],
    "norm of zero": [node("Mul", "x zero", "z"), node("LpNormalization", "z", "y")],
    "hyperbolic": [node("Sinh", "x", "s"), node("Cosh", "x", "c"), node("Mul", "s c", "y")],
    "hyperbolic near zero": [
        node("Constant", "", "tiny", value_float=1e-3),
        node("Mul", "x tiny", "t"),
        node("Sinh", "t", "y"),
    ],
    "copies along axes": [
        node("Constant", "", "repeats", value_ints=[3, 2]),
        node("Tile", "x repeats", "y"),
    ],
    "a sequence, from behind": [
        node("Constant", "", "last", value_int=-1),
        node("SequenceConstruct", "x x", "two"),
        node("Neg", "x", "n"),
        node("SequenceInsert", "two n last", "three_tensors"),
        node("ConcatFromSequence", "three_tensors", "y", axis=0),
    ],
    "parts of one row": [
        node("SplitToSequence", "x", "parts", axis=1, keepdims=0),
        node("Constant", "", "last", value_int=-1),
        node("SequenceAt", "parts last", "y"),
    ],
    "parts of one size": [
        node("Constant", "", "size", value_int=2),
        node("SplitToSequence", "x size", "parts", axis=1),
        node("ConcatFromSequence", "parts", "c", axis=1),
        node("Constant", "", "second", value_int=1),
        node("SequenceAt", "parts second", "last"),
        node("Concat", "c last", "y", axis=1),
    ],
    "parts of given sizes": [
        node("Constant", "", "sizes", value_ints=[1, 2]),
        node("SplitToSequence", "x sizes", "parts", axis=1),
        node("Constant", "", "first", value_int=0),
        node("SequenceAt", "parts first", "y"),
    ],
    "statistics of a layer norm": [node("LayerNormalization", "x three", "y m d")],
}


@pytest.mark.parametrize("case", OPERATORS)
def test_operators_that_tvm_lacks_or_converts_wrongly(case: str) -> None:
    outputs = ["y", *(["m"] if "m" in OPERATORS[case][-1].output else [])]
    weights = {
        "slope": np.array([[0.1], [-0.2]], np.float32),
        "half": np.array(0.5, np.float32),
        "zero": np.array(0, np.float32),
        "three": noise(3),
        "huge": np.array([1e38, 1, 1e38], np.float32),
        "big": np.array([2**40, -(2**33)]),
    }
    model = make_model(OPERATORS[case], {"x": (2, 3)}, outputs, weights)
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 3)})


@pytest.mark.parametrize(
    "wrong",
    [
        node("BatchNormalization", "x s s s s", "y m v", training_mode=1),
        node("Relu", "x", "y", training_mode=1),
        node("Transpose", "x", "y", perm=[0, 1, 2, 3], training_mode=1),
    ],
    ids=lambda wrong: wrong.op_type,
)
def test_attributes_that_nothing_handles_are_unsupported(wrong: onnx.NodeProto) -> None:
    model = make_model([wrong], {"x": (1, 3, 8, 8)}, ["y"], {"s": noise(3)})
    with pytest.raises(UnsupportedOperatorError, match=r"'y': .*training"):
        from_onnx(model)


def test_types_that_cannot_be_compiled_are_unsupported() -> None:
    cast = node("Cast", "x", "y", to=TensorProto.FLOAT8E4M3FN)
    with pytest.raises(UnsupportedOperatorError, match=r"Cast 'y': .*type FLOAT8E4M3FN cannot be"):
        from_onnx(make_model([cast], {"x": (2,)}, ["y"]))


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("output_shape", [[11, 14], [12, 14]])
def test_transposed_convolution_of_a_given_size(auto_pad: str, output_shape: list[int]) -> None:
    attributes = {"output_shape": output_shape, "auto_pad": auto_pad, "strides": [2, 3]}
    nodes = [node("ConvTranspose", "x w", "y", **attributes)]
    model = make_model(nodes, {"x": (1, 3, 6, 5)}, ["y"], {"w": noise(3, 2, 3, 4)})
    assert_same_outputs(from_onnx(model), model, {"x": noise(1, 3, 6, 5)})


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


def test_outputs_that_are_sequences_become_one_for_each_tensor() -> None:
    nodes = [node("SequenceConstruct", "x n", "y"), node("Neg", "x", "n")][::-1]
    model = make_model(nodes, {"x": (2,)}, ["y", "n"])
    module = from_onnx(model)
    assert names(module, "output_names") == ["y/0", "y/1", "n"]
    first, second, third = run_module(module, noise(2))
    np.testing.assert_array_equal(first, noise(2))
    np.testing.assert_array_equal(second, third)


def test_outputs_without_a_value_are_refused() -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, (2,))
    optional = node("Optional", "", "y", type=element)
    model = make_model([node("Neg", "x", "n"), optional], {"x": (2,)}, ["n", "y"])
    with pytest.raises(ModelError, match="output 'y' has no value"):
        from_onnx(model)
    with pytest.raises(ModelError, match="all its outputs are empty sequences"):
        from_onnx(make_model([node("SequenceEmpty", "", "y")], {"x": (2,)}, ["y"]))


def test_dropout_in_training_mode_is_an_error() -> None:
    nodes = [node("Dropout", "x ratio training", "y", name="drop")]
    weights = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    with pytest.raises(ModelError, match=r"Dropout 'drop': .* it is in training mode"):
        from_onnx(make_model(nodes, {"x": (2,)}, ["y"], weights))


# --- Shapes of inputs


def test_shapes_are_filled_in_by_symbol() -> None:
    model = make_model([node("Add", "a b", "y")], {"a": ("n", 3), "b": ("n", "c")}, ["y"])
    assert shapes(from_onnx(model, shapes={"b": (5, 3)})) == [(5, 3), (5, 3)]


def test_all_dimensions_without_a_value_are_named_at_once() -> None:
    model = make_model(
        [node("Add", "a b", "y"), node("Relu", "c", "z")],
        {"a": ("n", 3), "b": ("n", None), "c": None},
        ["y", "z"],
    )
    with pytest.raises(DynamicShapeError, match="--shape name:1,3,224,224") as caught:
        from_onnx(model)
    assert caught.value.dimensions == ("a: n", "b: n", "b: dimension 1", "c: number of dimensions")
    assert all(dimension in str(caught.value) for dimension in caught.value.dimensions)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"z": (1,)}, "has no input 'z'; it has a, b"),
        ({"a": (1, 2, 3)}, r"input 'a' of tiny has 2 dimensions, .* has 3"),
        ({"a": (1, 4)}, "dimension 1 of input 'a' of tiny is 3, not 4"),
        ({"a": (2, 3), "b": (4, 3)}, "dimension 'n' of tiny cannot be 2 and 4"),
        ({"a": (-1, 3)}, "a dimension is negative"),
    ],
)
def test_shapes_that_do_not_fit(given: dict[str, tuple[int, ...]], message: str) -> None:
    model = make_model([node("Add", "a b", "y")], {"a": ("n", 3), "b": ("n", 3)}, ["y"])
    with pytest.raises(UsageError, match=message):
        from_onnx(model, shapes=given)


def test_shapes_that_depend_on_data_are_refused() -> None:
    nodes = [node("NonZero", "x", "indices"), node("Relu", "x", "y")]
    model = make_model(nodes, {"x": (4,)}, ["y", "indices"])
    with pytest.raises(DynamicShapeError, match="NonZero 'indices': the sizes of its outputs"):
        from_onnx(model)


# --- Operators


def test_all_unsupported_operators_are_named_at_once() -> None:
    body = helper.make_graph(
        [helper.make_node("RegexFullMatch", ["s"], ["o"])],
        "body",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, ())],
    )
    nodes = [
        node("If", "c", "i", then_branch=body, else_branch=body),
        helper.make_node("Foo", ["s"], ["f"], domain="acme"),
        helper.make_node("Attention", ["s", "s", "s"], ["t"], domain="com.acme"),
        node("StringSplit", "s", "p q"),
        node("StringSplit", "s", "u v"),
    ]
    model = make_model(
        nodes, {"s": (2, "n")}, ["f", "t", "p"], {"c": np.array(True)}, domains=["acme", "com.acme"]
    )
    with pytest.raises(UnsupportedOperatorError, match="no value either: s: n") as caught:
        from_onnx(model)
    assert caught.value.operators == (
        "RegexFullMatch",
        "StringSplit",
        "acme::Foo",
        "com.acme::Attention",
    )
    assert "RegexFullMatch, StringSplit, acme::Foo, com.acme::Attention" in str(caught.value)


def test_conditions_on_data_are_unsupported() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, (1,))],
    )
    nodes = [
        node("Cast", "x", "c", to=TensorProto.BOOL),
        node("If", "c", "y", name="choose", then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(UnsupportedOperatorError, match=r"If 'choose': .* condition") as caught:
        from_onnx(make_model(nodes, {"x": (1,)}, ["y"]))
    assert caught.value.operators == ("If",)


def test_errors_name_the_node(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [node("Relu", "x", "r"), node("Conv", "r w", "y", name="block/conv")]
    model = make_model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"w": noise(4, 5, 3, 3)})
    with pytest.raises(ModelError, match="tiny: cannot import Conv 'block/conv': "):
        from_onnx(model)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (node("MaxPool", "x", "y"), "MaxPool 'y': Required attribute 'kernel_shape' is missing"),
        (node("If", "c", "y"), "If 'y': Required attribute 'else_branch' is missing"),
        (node("Gemm", "x", "y"), r"Gemm 'y': .* input size 1 not in range \[min=2, max=3\]"),
        (node("Add", "x five", "y"), "Add 'y': In relax.add, the first input shape at dim 3 is 8 "),
    ],
    ids=lambda value: getattr(value, "op_type", None),
)
def test_errors_say_what_is_wrong_with_the_node(bad: onnx.NodeProto, message: str) -> None:
    weights = {"c": np.array(True), "five": noise(5)}
    with pytest.raises(ModelError, match=f"tiny: cannot import {message}"):
        from_onnx(make_model([bad], {"x": (1, 3, 8, 8)}, ["y"], weights))


# --- What the model says of its tensors


def typed(name: str, element: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def test_stale_types_of_inner_tensors_are_ignored() -> None:
    model = make_model([node("Relu", "x", "r"), node("Neg", "r", "y")], {"x": (2, 3)}, ["y"])
    model.graph.value_info.append(typed("r", TensorProto.DOUBLE, 7, 7, 7))
    assert_same_outputs(from_onnx(model), model_without_types(model), {"x": noise(2, 3)})


def model_without_types(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


@pytest.mark.parametrize("sizes", [("n", "m"), ("n", 3), (2, "?"), (-1, 3)])
def test_outputs_may_be_declared_with_open_dimensions(sizes: tuple[int | str, ...]) -> None:
    model = make_model([node("Relu", "x", "y")], {"x": (2, 3)}, ["y"])
    model.graph.output[0].CopyFrom(typed("y", TensorProto.FLOAT, *sizes))
    assert len(from_onnx(model)["main"].params) == 1


@pytest.mark.parametrize(
    ("element", "sizes"), [(TensorProto.FLOAT, (2, 4)), (TensorProto.DOUBLE, (2, 3))]
)
def test_outputs_that_are_declared_wrongly(element: int, sizes: tuple[int, ...]) -> None:
    model = make_model([node("Relu", "x", "y")], {"x": (2, 3)}, ["y"])
    model.graph.output[0].CopyFrom(typed("y", element, *sizes))
    with pytest.raises(ModelError, match=r"output 'y' is declared as .* compute float32 \[2, 3\]"):
        from_onnx(model)


def test_what_onnx_cannot_infer_is_imported_all_the_same() -> None:
    """Its inference stops at operators that it does not know."""
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["m"], domain="com.microsoft", transB=1),
        node("Relu", "m", "y"),
    ]
    model = make_model(nodes, {"x": (2, 3)}, ["y"], {"w": noise(4, 3)}, domains=["com.microsoft"])
    assert_same_outputs(from_onnx(model), model, {"x": noise(2, 3)})


# --- Models that are not valid


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([node("Relu", "z", "y")], ["y"], "Relu 'y' reads 'z', which nothing computes before it"),
        ([node("Relu", "x", "y"), node("Neg", "x", "y")], ["y"], "Neg 'y' computes 'y', which"),
        ([node("Relu", "x", "x")], ["x"], "Relu 'x' computes 'x', which exists already"),
        ([node("Relu", "x", "y")], ["z"], "nothing computes the output 'z'"),
        ([node("Relu", "x", "y")], [], "the graph has no output"),
        ([node("Relu", "x", ""), node("Relu", "x", "y")], ["y"], "has no output"),
        ([node("Relu", "b", "y"), node("Neg", "x", "b")], ["y"], "reads 'b', which nothing"),
    ],
)
def test_graphs_that_break_a_rule(
    nodes: list[onnx.NodeProto], outputs: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        from_onnx(make_model(nodes, {"x": (2,)}, outputs))


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"opset": 999}, "uses opset 999; this onnx package knows 1 to"),
        ({"opset": 0}, "uses opset 0"),
        ({"ir_version": 2}, "has IR version 2, at least 3 is needed"),
    ],
)
def test_versions_out_of_range(versions: dict[str, int], message: str) -> None:
    model = make_model([node("Relu", "x", "y")], {"x": (2,)}, ["y"])
    if "opset" in versions:
        model.opset_import[0].version = versions["opset"]
    else:
        model.ir_version = versions["ir_version"]
    with pytest.raises(ModelError, match=message):
        from_onnx(model)


def test_model_without_opset() -> None:
    model = make_model([node("Relu", "x", "y")], {"x": (2,)}, ["y"])
    del model.opset_import[:]
    with pytest.raises(ModelError, match="does not say which opset it uses"):
        from_onnx(model)


@pytest.mark.parametrize("kind", ["sequence", "STRING", "FLOAT8E4M3FN", "COMPLEX64", "UNDEFINED"])
def test_inputs_that_are_no_numeric_tensors(kind: str) -> None:
    model = make_model([node("Identity", "x", "y")], {"x": (2,)}, ["y"])
    if kind == "sequence":
        element = helper.make_tensor_type_proto(TensorProto.FLOAT, (2,))
        model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(element))
    else:
        model.graph.input[0].type.tensor_type.elem_type = getattr(TensorProto, kind)
    with pytest.raises(ModelError, match=f"input 'x' (is no tensor|holds {kind}, which)"):
        from_onnx(model)


def test_weights_of_the_wrong_size() -> None:
    model = make_model([node("Add", "x w", "y")], {"x": (2,)}, ["y"], {"w": noise(2)})
    model.graph.initializer[0].dims[:] = [3]
    with pytest.raises(ModelError, match="cannot import initializer 'w'"):
        from_onnx(model)


def test_weights_of_a_type_that_cannot_be_compiled() -> None:
    model = make_model([node("Identity", "w", "y")], {"x": (2,)}, ["y"])
    weight = helper.make_tensor("w", TensorProto.FLOAT8E5M2, (2,), [1.0, 2.0])
    model.graph.initializer.append(weight)
    with pytest.raises(ModelError, match="initializer 'w': elements of type float8_e5m2 cannot"):
        from_onnx(model)


def test_agrees_with_onnx_runtime_on_the_name_of_every_output() -> None:
    model = make_model([node("Split", "x", "a b", axis=0)], {"x": (4,)}, ["b", "a"])
    outputs = run_module(from_onnx(model), noise(4))
    for actual, expected in zip(outputs, run_onnx_runtime(model, {"x": noise(4)}), strict=True):
        np.testing.assert_array_equal(actual, expected)
