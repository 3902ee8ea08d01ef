"""From a lowered module to one with devices, copies and the schedule in it."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from diamond import LLVM, SPLIT, Diamond, annotate, schedule
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.errors import ScheduleError
from hios_tvm.passes.annotate_schedule import schedule_of
from hios_tvm.schema.schedule import Schedule


def test_annotate_copies_what_crosses_devices_and_nothing_else() -> None:
    @I.ir_module
    class Expected:
        I.module_attrs({"hios_schedule": SPLIT.to_json()})
        I.module_global_infos({"vdevice": [I.vdevice("llvm", 0), I.vdevice("llvm", 1)]})

        @T.prim_func(private=True, s_tir=True)
        def negate(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                with T.sblock("y"):
                    v = T.axis.spatial(4, i)
                    y[v] = -x[v]

        @T.prim_func(private=True, s_tir=True)
        def add(
            x: T.Buffer((4,), "float32"),
            y: T.Buffer((4,), "float32"),
            z: T.Buffer((4,), "float32"),
        ):
            for i in range(4):
                with T.sblock("z"):
                    v = T.axis.spatial(4, i)
                    z[v] = x[v] + y[v]

        @R.function
        def main(
            x: R.Tensor((4,), "float32", "llvm:0"), weight_0: R.Tensor((4,), "float32", "llvm:0")
        ) -> R.Tensor((4,), "float32", "llvm:0"):
            R.func_attr({"num_input": 1, "input_names": ["x:0"], "output_names": ["y"]})
            cls = Expected
            with R.dataflow():
                a = R.call_tir(cls.negate, (x,), out_ty=R.Tensor((4,), "float32", "llvm:0"))
                b = R.call_tir(cls.add, (a, weight_0), out_ty=R.Tensor((4,), "float32", "llvm:0"))
                a_on_1: R.Tensor((4,), "float32", "llvm:1") = R.to_vdevice(a, "llvm:1")
                c = R.call_tir(cls.negate, (a_on_1,), out_ty=R.Tensor((4,), "float32", "llvm:1"))
                c_on_0: R.Tensor((4,), "float32", "llvm:0") = R.to_vdevice(c, "llvm:0")
                d = R.call_tir(cls.add, (b, c_on_0), out_ty=R.Tensor((4,), "float32", "llvm:0"))
                output: R.Tensor((4,), "float32", "llvm:0") = d
                R.output(output)
            return output

    tvm.ir.assert_structural_equal(annotate(Diamond, SPLIT), Expected)


def test_annotated_module_survives_a_round_trip_as_script() -> None:
    annotated = annotate(Diamond, SPLIT)
    parsed = tvm.script.from_source(annotated.script(show_meta=True))
    tvm.ir.assert_structural_equal(parsed, annotated)
    assert schedule_of(parsed) == SPLIT


def test_annotated_module_runs_on_the_stock_virtual_machine() -> None:
    annotated = annotate(Diamond, SPLIT)
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 4)).astype("float32")
    machine = relax.VirtualMachine(tvm.compile(annotated, LLVM), [tvm.cpu(0), tvm.cpu(1)])
    y = machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(weight)).numpy()
    np.testing.assert_allclose(y, (-x + weight) + x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "made",
    [schedule([[["a"]], [["b"]], [["c"]]]), schedule([[["a"], ["b"], ["c"], ["d"], ["e"]]])],
    ids=["operator missing", "operator unknown"],
)
def test_a_schedule_that_does_not_fit_is_refused(made: Schedule) -> None:
    with pytest.raises(ScheduleError, match="does not fit the module"):
        annotate(Diamond, made)
