"""Kernels of 8 bits against NumPy, with all instructions that this machine has."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered_models import convolved, run_module
from tvm import relax
from tvm.ir import IRModule
from tvm.target import Target, codegen

from hios_tvm.backends.cpu.targets import (
    host_target,
    integer_instruction,
    parse_target,
    vector_lanes,
    vector_registers,
)
from hios_tvm.passes.cpu_rules.integer_convolution import PackedSteps
from hios_tvm.passes.cpu_rules.integer_steps import IntegerInstruction, IntegerSteps
from hios_tvm.passes.pipeline import cpu_loops, cpu_rules, lower_to_kernels
from hios_tvm.passes.schedule_kernels import NO_RULE

Array = np.ndarray
RANDOM = np.random.default_rng(0)


def integers(dtype: str, *shape: int) -> Array:
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def network(shape: tuple[int, ...], weight: Array, **options: object) -> IRModule:
    """A convolution, or a product of matrices, of ``uint8`` with constant ``int8`` weights."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "uint8"))
    operands = relax.op.astype(x, "int32"), relax.const(weight.astype(np.int32))
    multiply = relax.op.nn.conv2d if weight.ndim == 4 else relax.op.matmul
    with builder.function("main", [x], {"input_names": ["x"], "output_names": ["y"]}):
        with builder.dataflow():
            y = builder.emit_output(multiply(*operands, out_dtype="int32", **options))
        builder.emit_func_output(y)
    return builder.get()


def scheduled(mod: IRModule, target: Target, instruction: IntegerInstruction) -> IRModule:
    rules = cpu_rules(vector_lanes(target), vector_registers(target), instruction)
    kernels = lower_to_kernels(mod, for_cpus=True)
    with target:
        return tvm.transform.Sequential(cpu_loops(rules))(kernels)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([(1, 1, 0), (3, 1, 1), (3, 2, 1), (2, 1, 0)]),
    st.sampled_from([1, 1, 2]),
    st.sampled_from(["host", "portable"]),
)
def test_any_convolution(
    inputs: int, outputs: int, window: tuple[int, int, int], groups: int, name: str
) -> None:
    kernel, stride, padding = window
    x = integers("uint8", 1, 4 * inputs * groups, 7, 6)
    weight = integers("int8", outputs * groups, 4 * inputs, kernel, kernel)
    options = {"strides": stride, "padding": padding, "groups": groups}
    target = parse_target(name)
    mod = scheduled(network(x.shape, weight, **options), target, integer_instruction(target))
    (result,) = run_module(mod, {"x": x}, target)
    sums = convolved(x.astype(int), weight.astype(int), stride, padding, groups)
    np.testing.assert_array_equal(result, sums)


@pytest.mark.parametrize("instruction", ["vnni", "madd", "none"])
def test_no_instruction_saturates(instruction: IntegerInstruction) -> None:
    """Two products of 255 and -128 do not fit into 16 bits; 13 channels are no whole steps."""
    target = host_target()
    if instruction == "vnni" and integer_instruction(target) != "vnni":
        pytest.skip("this CPU has no VNNI")
    if instruction == "madd" and not codegen.llvm_cpu_has_features("avx2", target):
        pytest.skip("this CPU has no AVX2")
    x, weight = np.full((3, 13), 255, "uint8"), np.full((13, 19), -128, "int8")
    mod = scheduled(network(x.shape, weight), target, instruction)
    kernels = [func for name, func in mod.functions_items() if "integer" in name.name_hint]
    assert len(kernels) == 1 and NO_RULE not in kernels[0].attrs
    (result,) = run_module(mod, {"x": x}, target)
    np.testing.assert_array_equal(result, x.astype(int) @ weight.astype(int))


def test_weights_are_packed_by_steps_of_channels() -> None:
    weights = np.arange(48).astype("int8").reshape(1, 1, 8, 6)
    packed = PackedSteps(IntegerSteps("vnni", 4), groups=1, block=4)(weights)
    assert packed.shape == (2, 1, 1, 2, 4) and packed.dtype == np.int32
    by_bytes = packed.view("int8").reshape(2, 2, 4, 4)
    np.testing.assert_array_equal(by_bytes[0, 1, 2], weights[0, 0, 4:, 2])
    assert not by_bytes[1, :, 2:].any()
