"""From a lowered module to an annotated one, and on to programs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from hios_tvm.artifact.programs import partition_by_device
from hios_tvm.errors import ScheduleError
from hios_tvm.passes.annotate_schedule import AnnotateSchedule, schedule_of
from hios_tvm.passes.canonicalize_operators import CanonicalizeOperators, collect_weights
from hios_tvm.passes.extract_operator_graph import bindings, extract_operator_graph
from hios_tvm.schema.program import Call, Copy, Signal, Wait
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


def schedule(*devices: list[list[list[str]]]) -> Schedule:
    """One list of stages a device; a stage is a list of stream groups."""
    return Schedule(
        "by hand",
        tuple(
            DeviceSchedule(f"cpu@{i}", tuple(Stage(tuple(map(tuple, s))) for s in stages))
            for i, stages in enumerate(devices)
        ),
    )


SPLIT = schedule([[["a"]], [["b"]], [["d"]]], [[["c"]]])


def annotate(mod: tvm.IRModule, made: Schedule) -> tvm.IRModule:
    return AnnotateSchedule(made, {device.device: LLVM for device in made})(mod)


def test_extract_names_operators_tensors_and_edges() -> None:
    graph = extract_operator_graph(Diamond, "diamond")
    assert [op.name for op in graph.operators] == ["a", "b", "c", "d"]
    assert [op.kernel for op in graph.operators] == ["negate", "add", "negate", "add"]
    assert [(e.src, e.dst, e.nbytes) for e in graph.edges] == [
        ("a", "b", 16),
        ("a", "c", 16),
        ("b", "d", 16),
        ("c", "d", 16),
    ]
    assert graph.inputs == ("x",)
    assert graph.constants == ("weight_0",)
    assert graph.outputs == ("d",)


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


def test_consumers_on_one_device_share_one_copy() -> None:
    made = schedule([[["a"]]], [[["b"]], [["c"]], [["d"]]])
    partition = partition_by_device(annotate(Diamond, made))
    copies = [i for p in partition.programs for i in p.instructions if isinstance(i, Copy)]
    assert copies == [Copy("a", "a@cpu@1")]


@pytest.mark.parametrize("devices", list(product(range(2), repeat=4)), ids=str)
def test_programs_have_the_copies_of_the_annotated_module(devices: tuple[int, ...]) -> None:
    placed = [
        [[[name]] for name, at in zip("abcd", devices, strict=True) if at == i] for i in (0, 1)
    ]
    annotated = annotate(Diamond, schedule(*placed))
    to_vdevice = tvm.ir.Op.get("relax.to_vdevice")
    expected = {
        (str(binding.value.args[0].name), f"cpu@{binding.var.ty.vdevice.vdevice_id}")
        for binding in bindings(annotated["main"])
        if isinstance(binding.value, relax.Call) and binding.value.op == to_vdevice
        # CPU devices read inputs and weights where they are
        if binding.value.args[0].name not in ("x", "weight_0")
    }
    copies = [
        (step.src, program.device)
        for program in partition_by_device(annotated).programs
        for step in program.instructions
        if isinstance(step, Copy)
    ]
    assert sorted(copies) == sorted(expected)


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


def test_programs_wait_for_remote_data_only() -> None:
    partition = partition_by_device(annotate(Diamond, SPLIT))
    first, second = partition.programs
    assert (first.device, first.stream) == ("cpu@0", 0)
    assert first.instructions == (
        Call("a", "negate", ("x", "a")),
        Signal(0),
        Call("b", "add", ("a", "weight_0", "b")),
        Wait(1),
        Copy("c", "c@cpu@0"),
        Call("d", "add", ("b", "c@cpu@0", "d")),
    )
    assert (second.device, second.stream) == ("cpu@1", 0)
    assert second.instructions == (
        Wait(0),
        Copy("a", "a@cpu@1"),
        Call("c", "negate", ("a@cpu@1", "c")),
        Signal(1),
    )
    assert {b.name: (b.device, b.space) for b in partition.buffers} == {
        "x": (None, "input"),
        "weight_0": (None, "param"),
        "a": ("cpu@0", "arena"),
        "b": ("cpu@0", "arena"),
        "a@cpu@1": ("cpu@1", "arena"),
        "c": ("cpu@1", "arena"),
        "c@cpu@0": ("cpu@0", "arena"),
        "d": (None, "output"),
    }
    assert partition.outputs == ("d",)
    kernels = {name: set(_names(mod)) for name, mod in partition.modules.items()}
    assert kernels == {"cpu@0": {"negate", "add"}, "cpu@1": {"negate"}}


def test_stream_groups_run_on_streams_that_share_the_device() -> None:
    partition = partition_by_device(annotate(Diamond, schedule([[["a"]], [["b"], ["c"]], [["d"]]])))
    programs = {program.stream: program.instructions for program in partition.programs}
    assert programs[0] == (
        Call("a", "negate", ("x", "a")),
        Signal(0),
        Wait(2),
        Wait(1),
        Call("d", "add", ("b", "c", "d")),
    )
    assert programs[1] == (Wait(0), Call("b", "add", ("a", "weight_0", "b")), Signal(1))
    assert programs[2] == (Wait(0), Call("c", "negate", ("a", "c")), Signal(2))


def test_canonicalize_lifts_each_constant_once_and_names_operators_after_kernels() -> None:
    weight = relax.const(np.arange(4, dtype="float32"))
    builder = relax.BlockBuilder()
    x = relax.Var("x.1", relax.TensorType((4,), "float32"))
    with builder.function("main", [x], attrs={"input_names": ["x.1"], "output_names": ["y"]}):
        with builder.dataflow():
            first = builder.emit(relax.op.add(x, weight))
            second = builder.emit(relax.op.add(first, weight))
            output = builder.emit_output(second)
        builder.emit_func_output(output)
    lowered = relax.transform.LegalizeOps()(builder.get())

    np.testing.assert_equal(collect_weights(lowered), {"weight_0": weight.value.numpy()})
    canonical = CanonicalizeOperators()(lowered)
    assert [param.name for param in canonical["main"].params] == ["input_0", "weight_0"]
    graph = extract_operator_graph(canonical)
    assert [op.inputs for op in graph.operators] == [("input_0", "weight_0"), ("add", "weight_0")]


@pytest.mark.parametrize(
    "made",
    [schedule([[["a"]], [["b"]], [["c"]]]), schedule([[["a"], ["b"], ["c"], ["d"], ["e"]]])],
    ids=["operator missing", "operator unknown"],
)
def test_a_schedule_that_does_not_fit_is_refused(made: Schedule) -> None:
    with pytest.raises(ScheduleError, match="does not fit the module"):
        annotate(Diamond, made)


def _names(mod: tvm.IRModule) -> list[str]:
    return [gvar.name_hint for gvar in mod.functions]
