"""One broken manifest for each rule of `check_manifest`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from hios_tvm.errors import ArtifactError
from hios_tvm.runtime.check_manifest import check_manifest
from hios_tvm.runtime.execution_order import execution_order
from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
from hios_tvm.schema.manifest import (
    Buffer,
    DeviceSpec,
    Manifest,
    PredictedOperator,
    PredictedTransfer,
    Prediction,
    Shapes,
    TensorSpec,
)
from hios_tvm.schema.program import Call, Copy, Instruction, Program, Signal, Wait
from hios_tvm.schema.value_checks import ValueCheck

SHAPE = (16,)
WEIGHTS = {"w": (SHAPE, "float32")}
GPU = DeviceSpec("cuda:0", "cuda", None, "cuda", (), 0)


def manifest() -> Manifest:
    r"""
    cpu@0: a -> b, which takes the place of c, no longer needed
           c -> a
    cpu@1:      a' -> y
    """
    spec = TensorSpec("the input", "x", SHAPE, "float32")
    return Manifest(
        tvm_version="0",
        model="small",
        inputs=(spec,),
        outputs=(TensorSpec("y", "y", SHAPE, "float32"), replace(spec, name="again")),
        devices=tuple(DeviceSpec(f"cpu@{i}", "cpu", "k.so", "llvm", (), 128) for i in (0, 1)),
        programs=(
            Program(
                "cpu@0",
                0,
                (
                    Call("c", "k", ("x", "c")),
                    Call("a", "k", ("c", "w", "a")),
                    Signal(7),
                    Call("b", "k", ("a", "b")),
                ),
            ),
            Program("cpu@1", 0, (Wait(7), Copy("a", "a'"), Call("y", "k", ("a'", "y")))),
        ),
        buffers=(
            Buffer("x", None, "input", SHAPE, "float32"),
            Buffer("w", None, "param", SHAPE, "float32"),
            Buffer("y", None, "output", SHAPE, "float32"),
            Buffer("c", "cpu@0", "arena", SHAPE, "float32", 0),
            Buffer("a", "cpu@0", "arena", SHAPE, "float32", 64),
            Buffer("b", "cpu@0", "arena", SHAPE, "float32", 0),
            Buffer("a'", "cpu@1", "arena", SHAPE, "float32", 0),
        ),
    )


def test_a_sound_manifest_passes() -> None:
    check_manifest(manifest(), WEIGHTS)
    check_manifest(replace(manifest(), in_flight=64), WEIGHTS)
    check_manifest(replace(manifest(), devices=(*manifest().devices, GPU)), WEIGHTS)


def program(index: int, *steps: Instruction) -> Callable[[Manifest], Manifest]:
    """Replace a program's instructions."""

    def change(m: Manifest) -> Manifest:
        programs = list(m.programs)
        programs[index] = replace(programs[index], instructions=steps)
        return replace(m, programs=tuple(programs))

    return change


def append(index: int, *steps: Instruction) -> Callable[[Manifest], Manifest]:
    return lambda m: program(index, *m.programs[index].instructions, *steps)(m)


def buffer(which: str, **fields: Any) -> Callable[[Manifest], Manifest]:
    """Change fields of a buffer."""
    return lambda m: replace(
        m,
        buffers=tuple(replace(b, **fields) if b.name == which else b for b in m.buffers),
    )


def predict(*operators: PredictedOperator) -> Callable[[Manifest], Manifest]:
    return lambda m: replace(m, prediction=Prediction(operators))


def device(**fields: Any) -> Callable[[Manifest], Manifest]:
    """Change fields of the first device."""
    return lambda m: replace(
        m,
        devices=(replace(m.devices[0], **fields), *m.devices[1:]),
    )


def replicas(*names: str) -> Callable[[Manifest], Manifest]:
    return lambda m: replace(m, replicas=(names,))


DEFECTS: dict[str, tuple[Callable[[Manifest], Manifest], str]] = {
    "replica on a core of the artifact": (replicas("cpu@2", "cpu@1"), "'cpu@1' has another"),
    "two replicas on a core": (replicas("cpu@2", "cpu@2"), "'cpu@2' has another session"),
    "replica on a GPU": (replicas("cuda:0"), "for CPUs only, not for 'cuda:0'"),
    "replica in other digits": (replicas("cpu@\u0662"), "for CPUs only"),
    "replica on a core twice": (replicas("cpu@2+2"), "one twice"),
    "nothing in flight": (lambda m: replace(m, in_flight=0), "0 inputs in flight, not 1 to 64"),
    "too much in flight": (lambda m: replace(m, in_flight=65), "65 inputs in flight"),
    "several shapes in flight": (
        lambda m: replace(m, in_flight=2, shapes=Shapes((), None)),
        "several inputs in flight, and several shapes",
    ),
    "in flight on a GPU": (
        lambda m: replace(m, in_flight=2, devices=(*m.devices, GPU)),
        "for CPUs only, not for 'cuda:0'",
    ),
    "no device": (lambda m: replace(m, devices=()), "no device"),
    "no program": (lambda m: replace(m, programs=()), "no program"),
    "no CPU device": (device(name="gpu"), "'gpu' is unknown: write for example cpu@0 or cuda:0"),
    "a name that steers terminals": (device(name="\x1b[2J"), r"'\\x1b\[2J' is unknown"),
    "unknown kind": (device(kind="npu"), "device 'cpu@0' has the kind 'npu'"),
    "device twice": (lambda m: replace(m, devices=m.devices[:1] * 2), "device 'cpu@0' is named 2"),
    "program twice": (
        lambda m: replace(m, programs=m.programs[:1] * 2),
        "program 'cpu@0 stream 0'",
    ),
    "program of no device": (lambda m: replace(m, devices=m.devices[:1]), "unknown device 'cpu@1'"),
    "too many streams": (
        lambda m: replace(m, programs=(replace(m.programs[0], stream=65), m.programs[1])),
        "stream 65",
    ),
    "too many instructions": (append(0, *[Wait(7)] * (1 << 15)), "32775 instructions, more than"),
    "no library": (device(library=None), "no library"),
    "buffer twice": (lambda m: replace(m, buffers=m.buffers * 2), "buffer 'x' is named 2 times"),
    "out of the arena": (buffer("a", offset=128), "ends at byte 192, the arena of cpu@0 has 128"),
    "larger than the arena": (buffer("a", shape=(2**40,)), "ends at byte"),
    "unaligned": (buffer("a", offset=32), "not aligned"),
    "arena without offset": (buffer("a", offset=None), "no offset"),
    "arena of no device": (buffer("a", device=None), "arena of no device"),
    "arena of an unknown device": (buffer("a", device="cpu@9"), "arena of no device"),
    "output with an offset": (buffer("y", offset=0), "must have no offset"),
    "input of a device": (buffer("x", device="cpu@0"), "must belong to no device"),
    "unknown dtype": (buffer("a", dtype="float128"), "dtype 'float128' is unknown"),
    "weight of another shape": (buffer("w", shape=(17,)), "no weight of that shape"),
    "weight of another dtype": (buffer("w", dtype="int32"), "no weight of that shape"),
    "weight of another name": (buffer("w", name="v"), "no weight of that shape"),
    "input of another shape": (buffer("x", shape=(17,)), "has no buffer of its shape"),
    "output of another shape": (buffer("y", shape=(17,)), "has no buffer of its shape"),
    "input twice": (lambda m: replace(m, inputs=m.inputs * 2), "input 'the input' is named 2"),
    "output twice": (lambda m: replace(m, outputs=m.outputs * 2), "output 'y' is named 2"),
    "inputs share a buffer": (
        lambda m: replace(m, inputs=(*m.inputs, replace(m.inputs[0], name="other"))),
        "buffer of an input 'x' is named 2",
    ),
    "input nobody gives": (lambda m: replace(m, inputs=()), "belongs to no input"),
    "output nobody takes": (lambda m: replace(m, outputs=()), "belongs to no output"),
    "input in the output space": (
        lambda m: replace(m, inputs=(*m.inputs, TensorSpec("z", "y", SHAPE, "float32"))),
        "not in the input space",
    ),
    "output in an arena": (
        lambda m: replace(m, outputs=(*m.outputs, TensorSpec("z", "b", SHAPE, "float32"))),
        "is in an arena",
    ),
    "call without outputs": (append(0, Call("d", "k", ("a",), 0)), "0 outputs among 1 arguments"),
    "more outputs than arguments": (append(0, Call("d", "k", ("a",), 2)), "2 outputs among 1"),
    "unknown buffer": (append(0, Call("d", "k", ("a", "nothing"))), "unknown buffer 'nothing'"),
    "writes a weight": (append(0, Call("d", "k", ("a", "w"))), "writes buffer 'w'"),
    "writes an input": (append(1, Copy("a'", "x")), "writes buffer 'x'"),
    "copy to another shape": (buffer("a'", shape=(15,)), "another shape or dtype"),
    "output never computed": (
        program(1, Wait(7), Copy("a", "a'")),
        "output 'y' is never computed",
    ),
    "written twice": (append(1, Call("y", "k", ("a'", "y"))), "written 2 times"),
    "never written": (program(0, Call("a", "k", ("c", "a")), Signal(7)), "'c' is written 0 times"),
    "read first": (
        program(0, Call("a", "k", ("c", "a")), Call("c", "k", ("x", "c")), Signal(7)),
        "'c' may be read before it is written",
    ),
    "read without waiting": (
        program(1, Copy("a", "a'"), Call("y", "k", ("a'", "y")), Wait(7)),
        "'a' may be read before it is written",
    ),
    "wait without signal": (append(0, Wait(8)), "waits for event 8, which nobody signals"),
    "signalled twice": (append(1, Signal(7)), "event 7 is signalled twice"),
    "hangs": (
        lambda m: append(1, Signal(8))(program(0, Wait(8), *m.programs[0].instructions)(m)),
        "in a cycle",
    ),
    "overlap of an operator's input and output": (
        buffer("b", offset=64),
        "'a' and 'b' overlap and may be in use at the same time",
    ),
    "overlap with a buffer still being copied": (
        append(0, Call("d", "k", ("b", "d"))),
        "'a' and 'd' overlap",
    ),
    "prediction of an operator twice": (
        predict(PredictedOperator("a", 1, 0, 1), PredictedOperator("a", 1, 0, 1)),
        "prediction of operator 'a' is named 2 times",
    ),
    "prediction backwards": (
        predict(PredictedOperator("a", 1, 2, 1)),
        "a prediction ends before it starts",
    ),
    "negative prediction": (predict(PredictedOperator("a", 1, -1, 1)), "ends before it starts"),
    "negative cost": (predict(PredictedOperator("a", -1, 0, 1)), "a cost is negative"),
    "transfer backwards": (
        lambda m: replace(m, prediction=Prediction((), (PredictedTransfer("a", "b", 2, 1),))),
        "a prediction ends before it starts",
    ),
}


def graph() -> OperatorGraph:
    """The operators of `manifest`."""
    return OperatorGraph(
        name="small",
        operators=(
            Operator("c", "k", ("x",), ("c",)),
            Operator("a", "k", ("c", "w"), ("a",)),
            Operator("b", "k", ("a",), ("b",)),
            Operator("y", "k", ("a",), ("y",)),
        ),
        tensors=tuple(Tensor(name, SHAPE, "float32") for name in "xwcaby"),
        inputs=("x",),
        constants=("w",),
        outputs=("y",),
    )


def test_a_call_writes_what_its_operator_computes() -> None:
    """An output among the inputs of a kernel would be returned as it was: with other memory."""
    sound = replace(manifest(), graph=graph())
    check_manifest(sound, WEIGHTS)
    second = TensorSpec("z", "z", SHAPE, "float32")
    *others, last = sound.programs
    last = replace(last, instructions=(Wait(7), Call("y", "k", ("z", "y"), outputs=2)))
    overstated = replace(
        sound,
        outputs=(*sound.outputs, second),
        buffers=(*sound.buffers, Buffer("z", None, "output", SHAPE, "float32")),
        programs=(*others, last),
    )
    with pytest.raises(ArtifactError, match=r"'y' writes \['z', 'y'\], the operator graph says"):
        check_manifest(overstated, WEIGHTS)
    renamed = replace(last, instructions=(Wait(7), Call("q", "k", ("z", "y"), outputs=2)))
    with pytest.raises(ArtifactError, match="the operator graph says"):
        check_manifest(replace(overstated, programs=(*others, renamed)), WEIGHTS)


def checked(**changes: Any) -> Manifest:
    """`manifest` with a check, of a buffer that one more operator writes."""
    base = manifest()
    check = ValueCheck("extremes", 0, "Gather 'g'", "index", 4, 3)
    buffer = Buffer("extremes", None, "output", (2, 1), "int64")
    *others, last = base.programs
    last = replace(last, instructions=(*last.instructions, Call("e", "k", ("x", "extremes"))))
    return replace(
        base,
        checks=(replace(check, **changes),),
        buffers=(*base.buffers, buffer),
        programs=(*others, last),
    )


def test_checks_of_values_have_extremes_that_are_computed() -> None:
    check_manifest(checked(), WEIGHTS)
    for changes in ({"column": 1}, {"buffer": "y"}, {"buffer": "nothing"}):
        with pytest.raises(ArtifactError, match="\"Gather 'g'\" has no extremes to compare"):
            check_manifest(checked(**changes), WEIGHTS)
    with pytest.raises(ArtifactError, match="\"Gather 'g'\" is never checked"):
        check_manifest(replace(checked(), programs=manifest().programs), WEIGHTS)


@pytest.mark.parametrize("name", DEFECTS)
def test_each_rule_has_its_message(name: str) -> None:
    change, message = DEFECTS[name]
    base = manifest()
    if name == "overlap with a buffer still being copied":
        late = Buffer("d", "cpu@0", "arena", SHAPE, "float32", 64)
        base = replace(base, buffers=(*base.buffers, late))
    with pytest.raises(ArtifactError, match=message):
        check_manifest(change(base), WEIGHTS)


def test_buffers_share_memory_where_programs_and_events_order_them() -> None:
    """`c` is read for the last time before the other device writes `a'`; `b` is written anytime."""
    larger = device(arena_bytes=192)(manifest())
    apart = buffer("b", offset=128)(buffer("a'", device="cpu@0", offset=0)(larger))
    check_manifest(apart, WEIGHTS)
    with pytest.raises(ArtifactError, match="'b' and \"a'\" overlap"):
        check_manifest(buffer("b", offset=0)(apart), WEIGHTS)


def chain(count: int, slots: int) -> tuple[tuple[Program, ...], tuple[Buffer, ...]]:
    """Instructions one after another; every `slots`-th buffer takes the same bytes."""
    names = ["x", *(f"b{i}" for i in range(count))]
    calls = tuple(Call(b, "k", (a, b)) for a, b in pairwise(names))
    buffers = tuple(
        Buffer(name, "cpu@0", "arena", SHAPE, "float32", 64 * (i % slots))
        for i, name in enumerate(names[1:])
    )
    return (Program("cpu@0", 0, calls),), buffers


def checked_seconds(changed: Manifest) -> float:
    start = time.process_time()
    check_manifest(changed, WEIGHTS)
    return time.process_time() - start


def long_manifest(count: int, slots: int) -> Manifest:
    programs, buffers = chain(count, slots)
    base = manifest()
    device = replace(base.devices[0], arena_bytes=64 * slots)
    return replace(
        base,
        outputs=base.outputs[1:],
        devices=(device,),
        programs=programs,
        buffers=(base.buffers[0], *buffers),
        graph=None,
        prediction=Prediction(),
    )


def test_buffers_that_share_memory_are_checked_in_little_time() -> None:
    """Compared two by two, 4000 of them took half a minute."""
    assert checked_seconds(long_manifest(4000, 2)) < 10
    with pytest.raises(ArtifactError, match="overlap and may be in use at the same time"):
        check_manifest(long_manifest(1000, 1), WEIGHTS)


def test_what_would_take_too_long_to_check_is_refused() -> None:
    base = long_manifest(2, 2)
    deep = replace(base.inputs[0], shape=(2**50,) * 100_000)
    with pytest.raises(ArtifactError, match="100000 dimensions, more than 32"):
        check_manifest(replace(base, inputs=(deep,)), WEIGHTS)
    large = replace(base.buffers[1], shape=(2**50,) * 32)
    with pytest.raises(ArtifactError, match="which no memory holds"):
        check_manifest(replace(base, buffers=(base.buffers[0], large)), WEIGHTS)
    wide = Call("c", "k", ("x",) * (2**20 + 1))
    with pytest.raises(ArtifactError, match="1048577 arguments, more than"):
        check_manifest(replace(base, programs=(Program("cpu@0", 0, (wide,)),)), WEIGHTS)
    devices = tuple(replace(base.devices[0], name=f"cpu@{i}") for i in range(300))
    with pytest.raises(ArtifactError, match="300 devices, more than 256"):
        check_manifest(replace(base, devices=devices), WEIGHTS)


def test_programs_that_wait_for_each_other_in_a_long_chain_are_ordered_in_little_time() -> None:
    """Each one waits for the next: going round all of them for each would take minutes."""
    count = 8000
    programs = [Program(f"cpu@{i}", 0, (Wait(i + 1), Signal(i))) for i in range(count)]
    start = time.process_time()
    order = list(execution_order([*programs, Program("cpu@0", 1, (Signal(count),))]))
    assert order[0] == (count, 0)
    assert order[1:3] == [(count - 1, 0), (count - 1, 1)]
    assert len(order) == 2 * count + 1
    assert time.process_time() - start < 5
