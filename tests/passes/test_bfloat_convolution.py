"""Kernels of bfloat16 against NumPy, by structure, and in code for CPUs that are not here."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import tvm
from lowered_models import convolved, run_module
from tvm import relax, tirx
from tvm.ir import IRModule
from tvm.script import tirx as T
from tvm.target import Target, codegen

from hios_tvm.backends import parse_targets
from hios_tvm.backends.cpu.backend import CpuBackend
from hios_tvm.backends.cpu.targets import host_target, parse_target, with_precision
from hios_tvm.errors import UsageError
from hios_tvm.passes.cpu_rules.bfloat_steps import instructions
from hios_tvm.passes.pipeline import lower_to_kernels

Array = np.ndarray
RANDOM = np.random.default_rng(0)
SAPPHIRE_RAPIDS = with_precision(parse_target("sapphirerapids"), "bf16")


def numbers(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def bfloat(array: Array) -> Array:
    """The numbers that a kernel multiplies, as doubles."""
    return array.astype(ml_dtypes.bfloat16).astype(np.float64)


def network(shape: tuple[int, ...], weight: Array, **options: object) -> IRModule:
    """``relu(product + bias)`` of an input and constant weights."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    multiply = relax.op.nn.conv2d if weight.ndim == 4 else relax.op.matmul
    with builder.function("main", [x], {"input_names": ["x"], "output_names": ["y"]}):
        with builder.dataflow():
            y = builder.emit(multiply(x, relax.const(weight), **options))
            bias = relax.const(np.float32(0.25))
            y = builder.emit_output(relax.op.nn.relu(builder.emit(relax.op.add(y, bias))))
        builder.emit_func_output(y)
    return builder.get()


def scheduled(mod: IRModule, target: Target) -> IRModule:
    kernels = lower_to_kernels(mod, for_cpus=True)
    with target:
        return tvm.transform.Sequential(CpuBackend().loops(target))(kernels)


def kernel_of(mod: IRModule) -> tirx.PrimFunc:
    (kernel,) = (func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))
    return kernel


@pytest.fixture(scope="module")
def here() -> Target:
    """This machine's target."""
    if not codegen.llvm_cpu_has_features("avx512bf16", host_target()):
        pytest.skip("this CPU has no AVX512-BF16")
    return with_precision(host_target(), "bf16")


def assert_close(result: Array, exact: Array) -> None:
    """Factors are rounded as in `exact`, and sums as in single precision."""
    exact = np.maximum(exact + 0.25, 0)
    np.testing.assert_allclose(result, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((1, 1), 3), ((2, 5, 70), 100), ((300, 1300), 19)],
)
def test_any_product(shape: tuple[int, ...], outputs: int, here: Target) -> None:
    """Also of channels that are no whole vectors, and of enough pixels for several cores."""
    x, weight = numbers(*shape), numbers(shape[-1], outputs)
    (result,) = run_module(scheduled(network(shape, weight), here), {"x": x}, here)
    assert_close(result, bfloat(x) @ bfloat(weight))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "groups"),
    [(3, 3, 1, 1, 1), (17, 1, 1, 0, 1), (40, 3, 2, 1, 1), (64, 2, 1, 0, 2)],
)
def test_any_convolution(
    channels: int, kernel: int, stride: int, padding: int, groups: int, here: Target
) -> None:
    x, weight = numbers(1, channels, 9, 8), numbers(36, channels // groups, kernel, kernel)
    options = {"strides": stride, "padding": padding, "groups": groups}
    (result,) = run_module(scheduled(network(x.shape, weight, **options), here), {"x": x}, here)
    assert_close(result, convolved(bfloat(x), bfloat(weight), stride, padding, groups))


def test_numbers_are_rounded_to_even(here: Target) -> None:
    """1 + 2**-8 lies between 1 and the next number; infinities and NaN stay what they are."""
    x = np.array([[1 + 2**-8, 1 + 3 * 2**-8], [np.inf, 1.0], [np.nan, 1.0]], np.float32)
    mod = scheduled(network(x.shape, np.eye(2, dtype=np.float32)), here)
    (result,) = run_module(mod, {"x": x}, here)
    np.testing.assert_array_equal(result[0], [1.25, 1 + 2**-6 + 0.25])
    assert np.isinf(result[1, 0]) and np.isnan(result[2]).all()


INSTRUCTIONS = instructions(channels=18)


@T.prim_func(private=True, s_tir=True)
def Expected(
    x: T.Buffer((T.int64(1), T.int64(18)), "float32"),
    weight: T.Buffer((T.int64(1), T.int64(1), T.int64(1), T.int64(9), T.int64(16)), "int32"),
    output: T.Buffer((T.int64(1), T.int64(16)), "float32"),
) -> None:
    T.func_attr({"op_pattern": 8, "tirx.is_scheduled": True, "tirx.noalias": True})
    with T.sblock("root"):
        T.reads()
        T.writes()
        T.attr(0, "pragma_import_llvm", INSTRUCTIONS)
        bits = T.alloc_buffer((1, 18), "uint16")
        bits[0, 0:16] = T.call_pure_extern(
            "uint16x16", "hios_bfloat_round16", x[0, T.Ramp(0, 1, 16)]
        )
        bits[0, 16:18] = T.call_pure_extern(
            "uint16x2", "hios_bfloat_round2", x[0, T.Ramp(16, 1, 2)]
        )
        sums = T.alloc_buffer((16,))
        sums[0:16] = T.Broadcast(T.float32(0.0), 16)
        for step in range(T.int64(9)):
            sums[0:16] = T.call_pure_extern(
                "float32x16",
                "hios_bfloat_dot",
                sums[T.Ramp(0, 1, 16)],
                T.Broadcast(
                    T.reinterpret("int32", bits[0, T.Ramp(step * T.int64(2), T.int64(1), 2)]), 16
                ),
                weight[0, 0, 0, step, T.Ramp(0, 1, 16)],
            )
        for lane in T.vectorized(T.int64(16)):
            output[0, lane] = T.max(T.float32(0.0), sums[lane] + T.float32(0.25))


def test_an_image_is_rounded_and_then_multiplied_in_steps_of_two_channels() -> None:
    """One pixel of 18 channels, a vector and 2, times 18 x 16 weights."""
    kernel = kernel_of(scheduled(network((1, 18), numbers(18, 16)), SAPPHIRE_RAPIDS))
    tvm.ir.assert_structural_equal(kernel, Expected)


def test_other_cpus_get_the_instructions_of_theirs() -> None:
    mod = scheduled(network((8, 64), numbers(64, 32)), SAPPHIRE_RAPIDS)
    code = tvm.tirx.build(
        IRModule({"f": kernel_of(mod).with_attr("global_symbol", "f")}), target=SAPPHIRE_RAPIDS
    )
    code = code.inspect_source("asm")
    assert "vdpbf16ps" in code and "vcvtneps2bf16" in code and "hios" not in code


def test_groups_of_an_odd_number_of_channels_stay_in_single_precision(here: Target) -> None:
    x, weight = numbers(1, 10, 4, 4), numbers(40, 5, 1, 1)
    mod = scheduled(network(x.shape, weight, groups=2), here)
    assert "bfloat" not in mod.script()
    (result,) = run_module(mod, {"x": x}, here)
    assert_close(result, convolved(x.astype(np.float64), weight, 1, 0, 2))


def test_what_a_cpu_or_a_device_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="slower than fp32 on x86-64-v3, which has neither AMX"):
        parse_targets("portable", ["cpu@0"], "bf16")
    with pytest.raises(UsageError, match="bf16 is a precision of cpu devices"):
        parse_targets("sm_90", ["cuda:0"], "bf16")


def test_of_two_kinds_of_devices_one_rounds() -> None:
    targets = parse_targets("sapphirerapids,sm_90", ["cpu@0", "cuda:0"], "bf16")
    assert "bf16" in targets["cpu"].keys and "bf16" not in targets["cuda"].keys
    targets = parse_targets("sapphirerapids,sm_90", ["cpu@0", "cuda:0"], "fp16")
    assert "fp16" not in targets["cpu"].keys and "fp16" in targets["cuda"].keys
