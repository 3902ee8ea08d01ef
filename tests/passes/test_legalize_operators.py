"""Kernels say what their loops mean and read weights as they are; no target is asked."""

from __future__ import annotations

import numpy as np
import tvm
from lowered_models import assert_lowers_right, model_of, random
from onnx import helper
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.passes.cpu_rules.convolution_tiles import BlockedWeights
from hios_tvm.passes.legalize_operators import LEGALIZATIONS
from hios_tvm.passes.pipeline import cpu_rules, lower_to_kernels
from hios_tvm.passes.schedule_kernels import Scheduled, schedule


def test_products_with_a_constant_read_it_as_it_is() -> None:
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            with R.dataflow():
                y = R.matmul(x, R.const([[1, 2], [3, 4], [5, 6]], "float32"))
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def matmul(
            x: T.Buffer((T.int64(2), T.int64(3)), "float32"),
            w: T.Buffer((T.int64(3), T.int64(2)), "float32"),
            y: T.Buffer((T.int64(2), T.int64(2)), "float32"),
        ):
            T.func_attr({"op_pattern": 4, "tirx.noalias": True})
            for i, j, k in T.grid(T.int64(2), T.int64(2), T.int64(3)):
                with T.sblock("matmul"):
                    row, output, channel = T.axis.remap("SSR", [i, j, k])
                    T.sblock_attr(
                        {
                            "hios.convolution": {
                                "batch": 1,
                                "in_size": [1, 2],
                                "out_size": [1, 2],
                                "kernel": [1, 1],
                                "strides": [1, 1],
                                "dilation": [1, 1],
                                "padding": [0, 0],
                                "in_channels": 3,
                                "out_channels": 2,
                                "groups": 1,
                            }
                        }
                    )
                    with T.init():
                        y[row, output] = T.float32(0)
                    y[row, output] = y[row, output] + x[row, channel] * w[channel, output]

        @R.function
        def main(x: R.Tensor((2, 3), "float32")):
            cls = Expected
            with R.dataflow():
                y = R.call_tir(
                    cls.matmul,
                    (x, R.const([[1, 2], [3, 4], [5, 6]], "float32")),
                    out_ty=R.Tensor((2, 2), "float32"),
                )
                R.output(y)
            return y

    after = relax.transform.LegalizeOps(LEGALIZATIONS)(Before)
    tvm.ir.assert_structural_equal(after, Expected)


def convolution() -> tvm.tirx.PrimFunc:
    """The kernel of a convolution of 48 to 40 channels, before loops."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])
    model = model_of([node], {"x": (1, 48, 28, 28)}, {"w": random(40, 48, 3, 3)})
    kernels = lower_to_kernels(from_onnx(model))
    return next(f for v, f in kernels.functions_items() if "conv2d" in v.name_hint)


def test_weights_of_convolutions_have_outputs_last() -> None:
    assert [int(extent) for extent in convolution().params[1].shape] == [3, 3, 48, 40]


def test_lanes_and_registers_decide_how_weights_are_packed() -> None:
    kernel = convolution()
    blocks = set()
    for lanes, registers in ((16, 32), (8, 16), (4, 32)):
        scheduled = schedule(kernel, cpu_rules(lanes, registers))
        assert isinstance(scheduled, Scheduled)
        ((index, packing),) = scheduled.packings.items()
        assert index == 1 and isinstance(packing, BlockedWeights)
        packed = packing(np.zeros((3, 3, 48, 40), "float32"))
        assert packed.shape == tuple(int(n) for n in scheduled.func.params[1].shape)
        assert packing.block % lanes == 0
        blocks.add(packing.block)
    assert len(blocks) > 1
    assert [int(n) for n in kernel.params[1].shape] == [3, 3, 48, 40], "the kernel stays as it was"


def test_blocks_of_weights_are_padded_in_each_group() -> None:
    weights = random(3, 2, 5, 6)  # two groups of three outputs
    packed = BlockedWeights(groups=2, block=4)(weights)
    assert packed.shape == (2, 3, 2, 5, 4)
    assert not packed[..., 3].any()
    np.testing.assert_array_equal(packed[1, 2, 1, 4, :3], weights[2, 1, 4, 3:])


def test_a_matrix_that_is_also_added_is_not_packed() -> None:
    """The sum reads it as it is: no rule may hand it another layout."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "w"], ["y"]),
    ]
    assert_lowers_right(model_of(nodes, {"x": (32, 32)}, {"w": random(32, 32)}))
