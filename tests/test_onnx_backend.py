"""A fixed part of ONNX's own backend suite; scripts/onnx_backend_suite.py runs all of it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from hios_tvm import onnx_backend
from hios_tvm.errors import InputError, ModelError, UnsupportedOperatorError, UsageError

PASSING = [
    "abs",
    "averagepool_2d_pads",
    "basic_conv_with_padding",
    "batchnorm_example",
    "clip",
    "concat_2d_axis_1",
    "conv_with_strides_padding",
    "einsum_sum",
    "elu_example",
    "gelu_tanh_1_expanded",
    "gemm_all_attributes",
    "globalaveragepool",
    "group_normalization_example",
    "instancenorm_example",
    "layer_normalization_default_axis",
    "lrn",
    "matmul_3d",
    "maxpool_2d_strides",
    "selu_example",
    "sinh",
    "softmax_axis_1",
    "transpose_all_permutations_3",
    "where_example",
]

WITHOUT_OPERATORS = ["constant", "identity"]

DEPENDING_ON_INPUTS = [
    "top_k",
    "castlike_FLOAT_to_DOUBLE",
    "compress_0",
    "expand_dim_unchanged",
    "if",
    "if_opt",
    "nonzero_example",
    "range_float_type_positive_delta",
    "slice_neg_steps",
    "squeeze",
    "tile",
    "training_dropout_zero_ratio",
    "unsqueeze_two_axes",
]
"""Cases whose shapes follow from the values of inputs."""

SEQUENCES = [
    "identity_sequence",
    "loop13_seq",
    "optional_has_element_empty_optional_input",
    "sequence_insert_at_front",
    "sequence_map_extract_shapes",
]
"""Cases that are given sequences and optionals, or give them."""

REFUSED = [
    "adam",
    "ai_onnx_ml_binarizer",
    "bernoulli",
    "cast_FLOAT_to_FLOAT8E4M3FN",
    "castlike_INT4_to_FLOAT",
    "strnormalizer_nostopwords_nochangecase",
]


def array_of(value: Any) -> Any:
    """The suite holds some arrays as protobufs."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


@pytest.fixture(scope="module")
def cases() -> dict[str, TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite computes infinities on purpose
        return {case.name: case for case in load_model_tests(kind="node")}


@pytest.mark.parametrize("name", [*PASSING, *WITHOUT_OPERATORS, *DEPENDING_ON_INPUTS, *SEQUENCES])
def test_case_of_the_suite_passes(name: str, cases: dict[str, TestCase], cache: Path) -> None:
    case = cases[f"test_{name}"]
    assert case.model is not None and case.data_sets is not None
    prepared = onnx_backend.prepare(case.model, cache_dir=cache)
    needs_values = name in DEPENDING_ON_INPUTS or any(
        not value.type.HasField("tensor_type") for value in case.model.graph.input
    )
    assert (prepared.session is None) == needs_values
    for inputs, expected in case.data_sets:
        outputs = prepared.run([array_of(value) for value in inputs])
        Runner.assert_similar_outputs(
            [array_of(value) for value in expected], list(outputs), case.rtol, case.atol
        )


@pytest.mark.parametrize("name", REFUSED)
def test_other_case_of_the_suite_is_refused(name: str, cases: dict[str, TestCase]) -> None:
    case = cases[f"test_{name}"]
    assert case.model is not None and case.data_sets is not None
    with pytest.raises((ModelError, InputError, RuntimeError)) as caught:
        onnx_backend.prepare(case.model).run(list(case.data_sets[0][0]))
    assert type(caught.value).__module__ == "hios_tvm.errors"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_both_devices_work_and_exchange_values() -> None:
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"]),
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("MatMul", ["s", "t"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    prepared = onnx_backend.prepare(model)
    assert prepared.session is not None
    assert {p.device for p in prepared.session.manifest.programs} == set(prepared.session.devices)
    assert len(prepared.session.devices) == 2
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    for outputs in (prepared.run([x]), prepared.run({"x": x}), prepared.run(x)):
        np.testing.assert_allclose(outputs["y"], expected, rtol=1e-5)


def test_run_model_and_run_node() -> None:
    x = np.array([-1.0, 2.0], np.float32)
    node = helper.make_node("Relu", ["x"], ["y"])
    np.testing.assert_array_equal(onnx_backend.run_node(node, [x])[0], [0.0, 2.0])
    np.testing.assert_array_equal(onnx_backend.run_node(node, [x], opset_version=13)[0], [0.0, 2.0])
    model = _relu()
    assert onnx_backend.is_compatible(model)
    np.testing.assert_array_equal(onnx_backend.run_model(model, [x]).y, [0.0, 2.0])


def test_wrong_use_is_a_clear_error() -> None:
    x = np.zeros(2, np.float32)
    node = helper.make_node("Relu", ["x"], ["y"])
    assert onnx_backend.supports_device("CPU") and not onnx_backend.supports_device("CUDA")
    with pytest.raises(UsageError, match="use CPU"):
        onnx_backend.run_node(node, [x], "CUDA")
    with pytest.raises(UsageError, match="no option 'speed'"):
        onnx_backend.run_node(node, [x], speed=1)
    with pytest.raises(InputError, match="2 are given, the node has 1"):
        onnx_backend.run_node(node, [x, x])
    with pytest.raises(InputError, match="no tensor"):
        onnx_backend.prepare(_relu()).run([[x]])
    with pytest.raises(UnsupportedOperatorError, match="Multinomial"):
        onnx_backend.run_node(helper.make_node("Multinomial", ["x"], ["y"]), [x])


def test_shapes_can_be_given_at_once() -> None:
    model = _relu()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.output[0].type.tensor_type.ClearField("shape")
    prepared = onnx_backend.prepare(model, shapes={"x": (3,)})
    assert prepared.session is not None
    assert prepared.run([np.zeros(3, np.float32)]).y.shape == (3,)
    nonzero = _relu()
    nonzero.graph.node[0].op_type = "NonZero"
    with pytest.raises(ModelError, match="the sizes of its outputs are not known"):
        onnx_backend.prepare(nonzero, shapes={"x": (2,)})


def _relu() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    return helper.make_model(graph)
