"""A small lowered module with two branches, and schedules of it written by hand."""

from __future__ import annotations

import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.passes.annotate_schedule import AnnotateSchedule
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

LLVM = tvm.target.Target("llvm")


@I.ir_module
class Diamond:
    r"""
        a           a on device 0; b on 0, c on 1 read it; d on 0 reads both
       / \
      b   c
       \ /
        d
    """

    @T.prim_func(private=True, s_tir=True)
    def negate(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("y"):
                v = T.axis.spatial(4, i)
                y[v] = -x[v]

    @T.prim_func(private=True, s_tir=True)
    def add(
        x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32"), z: T.Buffer((4,), "float32")
    ):
        for i in range(4):
            with T.sblock("z"):
                v = T.axis.spatial(4, i)
                z[v] = x[v] + y[v]

    @R.function
    def main(x: R.Tensor((4,), "float32"), weight_0: R.Tensor((4,), "float32")) -> R.Tensor(
        (4,), "float32"
    ):
        R.func_attr({"num_input": 1, "input_names": ["x:0"], "output_names": ["y"]})
        cls = Diamond
        with R.dataflow():
            a = R.call_tir(cls.negate, (x,), out_ty=R.Tensor((4,), "float32"))
            b = R.call_tir(cls.add, (a, weight_0), out_ty=R.Tensor((4,), "float32"))
            c = R.call_tir(cls.negate, (a,), out_ty=R.Tensor((4,), "float32"))
            d = R.call_tir(cls.add, (b, c), out_ty=R.Tensor((4,), "float32"))
            output = d
            R.output(output)
        return output


def schedule(*devices: list[list[list[str]]], shared: bool = False) -> Schedule:
    """One list of stages a device; a stage is a list of stream groups.

    Each device has a memory of its own, as if on a NUMA node, unless all are `shared`.
    """
    return Schedule(
        "by hand",
        tuple(
            DeviceSchedule(
                f"cpu@{i}",
                tuple(Stage(tuple(map(tuple, s))) for s in stages),
                None if shared else f"node{i}",
            )
            for i, stages in enumerate(devices)
        ),
    )


SPLIT = schedule([[["a"]], [["b"]], [["d"]]], [[["c"]]])


def annotate(mod: tvm.IRModule, made: Schedule) -> tvm.IRModule:
    return AnnotateSchedule(made, {device.device: LLVM for device in made})(mod)
