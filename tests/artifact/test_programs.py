"""From an annotated module, or a graph and a schedule, to programs, buffers and kernels."""

from __future__ import annotations

from itertools import product

import pytest
import tvm
from diamond import SPLIT, Diamond, annotate, schedule
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from hios_tvm.artifact.buffer_plan import plan_buffers
from hios_tvm.artifact.programs import partition_by_device, programs_of
from hios_tvm.artifact.programs.device_copies import DeviceCopies
from hios_tvm.artifact.programs.partition import _buffers
from hios_tvm.passes.dataflow import bindings
from hios_tvm.passes.extract_operator_graph import extract_operator_graph
from hios_tvm.runtime.check_manifest import check_manifest
from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
from hios_tvm.schema.launches import GpuKernel, Launch
from hios_tvm.schema.manifest import DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.program import COPY_STREAM, Call, Copy, Program, Signal, Wait
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage


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


def test_devices_of_one_memory_hand_over_by_reference() -> None:
    shared = schedule([[["a"]], [["b"]], [["d"]]], [[["c"]]], shared=True)
    annotated = annotate(Diamond, shared)
    assert "to_vdevice" not in annotated.script()
    partition = partition_by_device(annotated)
    first, second = partition.programs
    assert first.instructions == (
        Call("a", "negate", ("x", "a")),
        Signal(0),
        Call("b", "add", ("a", "weight_0", "b")),
        Wait(1),
        Call("d", "add", ("b", "c", "d")),
    )
    assert second.instructions == (Wait(0), Call("c", "negate", ("a", "c")), Signal(1))
    assert {b.name: b.device for b in partition.buffers if b.space == "arena"} == {
        "a": "cpu@0",
        "b": "cpu@0",
        "c": "cpu@0",  # one arena for the memory
    }


def test_stages_that_share_cores_wait_for_each_other() -> None:
    """On both cores, then on one each, then on both; `b` and `c` wait for data alone."""
    stages = {"cpu@0-1": [("a", 0), ("d", 3)], "cpu@0": [("b", 1)], "cpu@1": [("c", 2)]}
    made = Schedule(
        "by hand",
        tuple(
            DeviceSchedule(device, tuple(Stage(((name,),), at) for name, at in own))
            for device, own in stages.items()
        ),
    )
    partition = partition_by_device(annotate(Diamond, made))
    programs = {program.device: program.instructions for program in partition.programs}
    assert programs == {
        "cpu@0-1": (
            Call("a", "negate", ("x", "a")),
            Signal(0),
            Wait(2),
            Wait(1),
            Call("d", "add", ("b", "c", "d")),
        ),
        "cpu@0": (Wait(0), Call("b", "add", ("a", "weight_0", "b")), Signal(1)),
        "cpu@1": (Wait(0), Call("c", "negate", ("a", "c")), Signal(2)),
    }


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


def test_gpus_make_all_copies_from_and_to_them() -> None:
    """Inputs and outputs too, on a stream beside that of the kernels; weights are there before."""
    stages = {"cuda:0": "abd", "cpu@0": "c"}
    devices = (
        DeviceSchedule(device, tuple(Stage(((name,),)) for name in names))
        for device, names in stages.items()
    )
    schedule = Schedule("by hand", tuple(devices))
    own_memory = {"cuda:0": "cuda"}
    programs = programs_of(extract_operator_graph(Diamond), schedule, own_memory=own_memory)
    assert {(p.device, p.stream): p.instructions for p in programs} == {
        ("cuda:0", COPY_STREAM): (
            Copy("x", "x@cuda:0"),
            Signal(0),
            Wait(1),
            Copy("a", "a@cpu@0"),
            Signal(2),
            Wait(3),
            Copy("c", "c@cuda:0"),
            Signal(4),
            Wait(5),
            Copy("d", "d@output"),
        ),
        ("cuda:0", 0): (
            Wait(0),
            Call("a", "negate", ("x@cuda:0", "a")),
            Signal(1),
            Call("b", "add", ("a", "weight_0@cuda:0", "b")),
            Wait(4),
            Call("d", "add", ("b", "c@cuda:0", "d")),
            Signal(5),
        ),
        ("cpu@0", 0): (Wait(2), Call("c", "negate", ("a@cpu@0", "c")), Signal(3)),
    }


def test_parts_of_a_gpu_hand_over_by_reference() -> None:
    """Inputs and weights are there once, in the one arena and the memory of the GPU."""
    parts = ("cuda:0.0/2", "cuda:0.1/2")
    made = Schedule(
        "by hand",
        tuple(
            DeviceSchedule(device, tuple(Stage(((name,),)) for name in names))
            for device, names in zip(parts, ("acd", "b"), strict=True)
        ),
    )
    mod = annotate(Diamond, made)
    assert "to_vdevice" not in mod.script()
    partition = partition_by_device(mod)
    assert {(p.device, p.stream): p.instructions for p in partition.programs} == {
        (parts[0], COPY_STREAM): (
            Copy("x", "x@cuda:0.0/2"),
            Signal(0),
            Wait(3),
            Copy("d", "d@output"),
        ),
        (parts[0], 0): (
            Wait(0),
            Call("a", "negate", ("x@cuda:0.0/2", "a")),
            Signal(1),
            Call("c", "negate", ("a", "c")),
            Wait(2),
            Call("d", "add", ("b", "c", "d")),
            Signal(3),
        ),
        (parts[1], 0): (
            Wait(1),
            Call("b", "add", ("a", "weight_0@cuda:0.0/2", "b")),
            Signal(2),
        ),
    }
    own = [buffer for buffer in partition.buffers if buffer.device is not None]
    assert {buffer.device for buffer in own} == {parts[0]}
    assert {buffer.name: buffer.weight for buffer in own if buffer.space == "param"} == {
        "weight_0@cuda:0.0/2": "weight_0"
    }


def test_a_memory_gets_one_copy_for_all_its_readers() -> None:
    """Of an idle part nothing is asked: the arena is that of one with work."""
    parts = {"cuda:0.0/3": "", "cuda:0.1/3": "b", "cuda:0.2/3": "c", "cpu@0": "a", "cpu@1": "d"}
    devices = (
        DeviceSchedule(device, tuple(Stage(((name,),)) for name in names))
        for device, names in parts.items()
    )
    made = Schedule("by hand", tuple(devices))
    own_memory = dict.fromkeys(list(parts)[:3], "cuda")
    programs = programs_of(extract_operator_graph(Diamond), made, own_memory=own_memory)
    steps = [step for program in programs for step in program.instructions]
    assert sorted(step.dst for step in steps if isinstance(step, Copy)) == [
        "a@cuda:0.1/3",
        "b@cpu@0",
        "c@cpu@0",
    ]


DEVICES = {"cuda:0.0/3": "cuda:0", "cuda:0.1/3": "cuda:0", "cuda:0.2/3": "cuda:0"}
DEVICES |= {"cuda:1": "cuda:1", "cpu@0": "host", "cpu@1": "host"}
"""The memory of each device."""


@st.composite
def schedules(draw: st.DrawFn) -> tuple[OperatorGraph, Schedule]:
    """Operators that read one or two tensors before them, on devices at random."""
    tensors, operators = ["x"], []
    stages: dict[str, list[Stage]] = {device: [] for device in DEVICES}
    for i in range(draw(st.integers(1, 20))):
        inputs = {draw(st.sampled_from(tensors[-5:])) for _ in range(2)}
        kernel = f"k{len(inputs)}"
        operators.append(Operator(f"op{i}", kernel, tuple(sorted(inputs)), (f"t{i}",)))
        tensors.append(f"t{i}")
        stages[draw(st.sampled_from(list(DEVICES)))].append(Stage(((f"op{i}",),)))
    types = tuple(Tensor(name, (4,), "float32") for name in tensors)
    outputs = tuple(draw(st.lists(st.sampled_from(tensors[1:]), min_size=1, unique=True)))
    graph = OperatorGraph("random", tuple(operators), types, ("x",), (), outputs)
    devices = tuple(DeviceSchedule(device, tuple(own)) for device, own in stages.items())
    return graph, Schedule("by chance", devices)


@settings(deadline=None, max_examples=60)
@given(schedules())
def test_random_schedules_copy_once_into_a_memory(made: tuple[OperatorGraph, Schedule]) -> None:
    """And kernels find everything in the memory of their device, in an order that is fixed."""
    graph, schedule = made
    own_memory = {device: "cuda" for device in DEVICES if device.startswith("cuda")}
    programs = programs_of(graph, schedule, own_memory=own_memory)
    copies = DeviceCopies(graph, schedule, own_memory)
    plan = plan_buffers(programs, _buffers(copies, {}))
    memory = {b.name: DEVICES[b.device] if b.device else "host" for b in plan.buffers}
    copied: set[tuple[str, str]] = set()
    for program in programs:
        for step in program.instructions:
            if isinstance(step, Copy):
                end = (step.src, step.dst if step.dst.endswith("@output") else memory[step.dst])
                assert end not in copied and memory[step.src] != memory[step.dst]
                copied.add(end)
            elif isinstance(step, Call):
                own = {DEVICES[program.device]} | ({"host"} if "cpu" in program.device else set())
                assert {memory[name] for name in step.args} <= own
    launches = (Launch("k", (1, 1, 1), (1, 1, 1), 0, ()),)
    manifest = Manifest(
        tvm_version="",
        model="random",
        inputs=(TensorSpec("x", "x", (4,), "float32"),),
        outputs=tuple(
            TensorSpec(name, copies.output_buffer(name), (4,), "float32") for name in graph.outputs
        ),
        devices=tuple(
            DeviceSpec(name, kind, "k.so", "", (), plan.arena_bytes.get(name, 0), code)
            for name in DEVICES
            for kind, code in [("cuda", "k.cubin") if name in own_memory else ("cpu", None)]
        ),
        programs=programs,
        buffers=plan.buffers,
        gpu_kernels={f"k{n}": GpuKernel(launches, (16,) * (n + 1)) for n in (1, 2)},
        graph=graph,
    )
    check_manifest(manifest, {})


def test_a_model_without_operators_has_one_empty_program() -> None:
    graph = OperatorGraph("nothing", (), (Tensor("x", (4,), "float32"),), ("x",), (), ("x",))
    made = Schedule("by hand", (DeviceSchedule("cpu@0", ()),))
    assert programs_of(graph, made) == (Program("cpu@0", 0, ()),)


def _names(mod: tvm.IRModule) -> list[str]:
    return [gvar.name_hint for gvar in mod.functions]
