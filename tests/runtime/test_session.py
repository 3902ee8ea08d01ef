from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import tvm
from hand_made import LENGTH, HandMade

from hios_tvm import runtime
from hios_tvm.errors import DeviceError, InputError, MemoryLimitError, SessionClosedError
from hios_tvm.runtime import Session, aligned_empty
from hios_tvm.runtime.arguments import accept
from hios_tvm.runtime.devices.cpu import claims
from hios_tvm.runtime.memory import address_of
from hios_tvm.runtime.read_artifact import open_artifact

Array = np.ndarray


def check(hand_made: HandMade, outputs: dict[str, Array], x: Array) -> None:
    expected = hand_made.expected(x)
    assert list(outputs) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(outputs[name], expected[name])


def inputs_of(x: Array) -> dict[str, Array]:
    return {"the input": x}


def test_outputs_equal_numpy(hand_made: HandMade, session: Session, x: Array) -> None:
    check(hand_made, session.run(inputs_of(x)), x)


def test_inputs_may_lie_anywhere(hand_made: HandMade, session: Session, x: Array) -> None:
    aligned = aligned_empty(x.shape, "float32")
    aligned[:] = x
    memory = np.zeros(LENGTH + 1, np.float32)
    memory[1:] = x
    wide = np.zeros((LENGTH, 3), np.float32)
    wide[:, 1] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (aligned, memory[1:], wide[:, 1], x[::-1][::-1], frozen, x):
        check(hand_made, session.run(inputs_of(array)), x)


def test_results_belong_to_the_caller(hand_made: HandMade, session: Session, x: Array) -> None:
    first = session.run(inputs_of(x))
    kept = {name: array.copy() for name, array in first.items()}
    second = session.run(inputs_of(2 * x))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        assert array.flags.writeable
        assert not np.shares_memory(array, second[name])
    assert not np.shares_memory(first["x again"], x)
    for array in first.values():
        array[:] = np.nan
    check(hand_made, session.run(inputs_of(x)), x)


@pytest.mark.parametrize(
    ("inputs", "messages"),
    [
        ({}, ["'the input' is missing: float32 [1000]"]),
        ({"x": np.zeros(3)}, ["'the input' is missing", "'x' is unknown"]),
        (
            {"the input": np.zeros(LENGTH)},
            ["'the input' is float64 [1000], not float32 [1000]"],
        ),
        (
            {"the input": np.zeros((LENGTH, 1), np.float32), "b": 1},
            ["'the input' is float32 [1000, 1], not float32 [1000]", "'b' is unknown"],
        ),
        ({"the input": [0.0] * LENGTH}, ["'the input' is a list, not a NumPy array or a tensor"]),
    ],
)
def test_all_wrong_inputs_are_listed(
    session: Session, inputs: dict[str, Array], messages: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        session.run(inputs)
    for message in messages:
        assert message in str(caught.value)


def test_inputs_are_given_by_name_in_order_or_alone(
    hand_made: HandMade, session: Session, x: Array
) -> None:
    for inputs in (x, [x], (x,), inputs_of(x), MappingProxyType(inputs_of(x))):
        check(hand_made, session.run(inputs), x)
    with pytest.raises(InputError, match="2 inputs given, but the model has 1: 'the input'"):
        session.run([x, x])


class Foreign:
    """A tensor of a library that NumPy does not know."""

    def __init__(self, array: Array, refusal: str = "") -> None:
        self._array, self._refusal = array, refusal

    def __dlpack__(self, **options: object) -> object:
        if self._refusal:
            raise BufferError(self._refusal)
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


@pytest.mark.parametrize("kind", ["any", "tvm", "torch"])
def test_tensors_of_other_libraries_are_read_in_place(
    hand_made: HandMade, session: Session, x: Array, kind: str
) -> None:
    if kind == "torch":
        tensor = pytest.importorskip("torch").from_numpy(x)
    else:
        tensor = tvm.runtime.tensor(x) if kind == "tvm" else Foreign(x)
    check(hand_made, session.run(tensor), x)
    check(hand_made, session.run(inputs_of(tensor)), x)
    held = accept(tensor, session.inputs, "input")["the input"]
    assert kind == "tvm" or address_of(held) == address_of(x)


def test_tensors_that_numpy_cannot_use_are_refused(session: Session, x: Array) -> None:
    with pytest.raises(
        InputError, match="'the input' is a Foreign whose memory NumPy cannot use: a gradient"
    ):
        session.run(Foreign(x, "a gradient"))


def test_outputs_are_written_into_given_arrays(
    hand_made: HandMade, session: Session, x: Array
) -> None:
    aligned = aligned_empty(x.shape, "float32")
    unaligned = np.empty(LENGTH + 1, np.float32)[1:]
    strided = np.empty(2 * LENGTH, np.float32)[::2]
    for arrays in ([aligned, unaligned, strided], [strided, aligned, unaligned]):
        outputs = session.run(x, out=arrays)
        check(hand_made, outputs, x)
        assert all(output is array for output, array in zip(outputs.values(), arrays, strict=True))
    outputs = session.run(x, out={"z": aligned})
    check(hand_made, outputs, x)
    assert outputs["z"] is aligned


def test_outputs_may_replace_inputs(hand_made: HandMade, session: Session, x: Array) -> None:
    for name in ("y", "z", "x again"):
        both = aligned_empty(x.shape, "float32")
        both[:] = x
        outputs = session.run(both, out={name: both})
        check(hand_made, outputs, x)
        assert outputs[name] is both


def test_arrays_that_cannot_take_outputs_are_refused(session: Session, x: Array) -> None:
    with pytest.raises(InputError, match="'z' is float64"):
        session.run(x, out={"z": np.zeros(LENGTH)})
    with pytest.raises(InputError, match="outputs: 'a' is unknown"):
        session.run(x, out={"a": np.zeros(LENGTH, np.float32)})
    read_only = np.zeros(LENGTH, np.float32)
    read_only.flags.writeable = False
    with pytest.raises(InputError, match="'z' cannot be written into a read-only array"):
        session.run(x, out={"z": read_only})


def test_a_session_says_what_it_is(session: Session, hand_made: HandMade) -> None:
    words = "(the input float32 1000) -> y float32 1000, z float32 1000, x again float32 1000 on "
    assert words + ", ".join(hand_made.devices) in repr(session)
    assert "the input float32 1000" in repr(session.manifest)


def test_big_endian_inputs_are_refused(session: Session, x: Array) -> None:
    with pytest.raises(InputError):
        session.run(inputs_of(x.astype(">f4")))


def test_specs_describe_the_model(session: Session) -> None:
    assert [(spec.name, spec.shape, spec.dtype) for spec in session.inputs] == [
        ("the input", (LENGTH,), "float32")
    ]
    assert [spec.name for spec in session.outputs] == ["y", "z", "x again"]


def test_threads_share_a_session(hand_made: HandMade, session: Session) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            x = np.random.default_rng(seed).standard_normal(LENGTH).astype(np.float32)
            for _ in range(50):
                check(hand_made, session.run(inputs_of(x)), x)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_closed_session_says_so(hand_made: HandMade, x: Array) -> None:
    with hand_made.load() as session:
        session.run(inputs_of(x))
    session.close()  # twice is fine
    with pytest.raises(SessionClosedError, match="load the artifact again"):
        session.run(inputs_of(x))


def test_closing_waits_for_runs(faulty: Path, two_devices: tuple[str, str]) -> None:
    session = runtime.load(faulty, devices=two_devices)
    x = np.full(LENGTH, 0.2, np.float32)
    results: list[dict[str, Array]] = []
    thread = threading.Thread(target=lambda: results.append(session.run({"x": x})))
    thread.start()
    while not session._is_running:
        pass
    session.close()
    thread.join()
    np.testing.assert_array_equal(results[0]["y"], x)


def _workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("hios ")]


def test_no_thread_is_left_after_close(hand_made: HandMade) -> None:
    session = hand_made.load()
    assert len(_workers()) == 2
    session.close()
    assert not _workers()


def test_a_forgotten_session_closes_itself(hand_made: HandMade, x: Array) -> None:
    session = hand_made.load()
    session.run(inputs_of(x))
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    assert not _workers()


def test_devices_can_be_mapped(hand_made: HandMade, x: Array) -> None:
    first, second = hand_made.devices
    for devices in ({"cpu@0": first, "cpu@1": second}, [second, first], (first, first)):
        with runtime.load(hand_made.path, devices=devices) as session:
            check(hand_made, session.run(inputs_of(x)), x)
            wanted = devices.values() if isinstance(devices, dict) else devices
            assert session.devices == tuple(wanted)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (["cpu@0"], "devices cpu@0, cpu@1; 1 were named"),
        ({"cpu@7": "cpu@0"}, "no device 'cpu@7': it has cpu@0, cpu@1"),
        (["cpu@0", "cuda:0"], "cpu@1 cannot be mapped to cuda:0"),
        (["cpu@0", "cpu@9999"], "needs core 9999"),
    ],
)
def test_wrong_devices_are_named(
    hand_made: HandMade, devices: list[str] | dict[str, str], message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        runtime.load(hand_made.path, devices=devices)
    assert not _workers()


def test_memory_that_the_machine_lacks_is_one_clear_error(hand_made: HandMade) -> None:
    artifact = open_artifact(hand_made.path)
    large = tuple(replace(device, arena_bytes=2**53) for device in artifact.manifest.devices)
    artifact = replace(artifact, manifest=replace(artifact.manifest, devices=large))
    with pytest.raises(MemoryLimitError, match=r"a run of .* needs 16777216.0 GiB of memory"):
        Session(artifact, devices=hand_made.devices)


def test_traces_show_every_instruction(hand_made: HandMade, session: Session, x: Array) -> None:
    outputs, trace = session.run_traced(inputs_of(x))
    check(hand_made, outputs, x)
    names = {(s.device, s.kind, s.name) for s in trace.spans}
    assert names == {
        ("cpu@0", "call", "add1"),
        ("cpu@0", "call", "mul2"),
        ("cpu@0", "copy", "b@cpu@0"),
        ("cpu@0", "signal", "event 0"),
        ("cpu@0", "wait", "event 1"),
        ("cpu@1", "call", "mul1"),
        ("cpu@1", "call", "add2"),
        ("cpu@1", "copy", "a@cpu@1"),
        ("cpu@1", "signal", "event 1"),
        ("cpu@1", "wait", "event 0"),
    }
    of = {(span.device, span.name): span for span in trace.spans}
    for span in trace.spans:
        assert trace.start_ns <= span.start_ns <= span.end_ns <= trace.end_ns
    assert of["cpu@1", "event 1"].start_ns <= of["cpu@0", "event 1"].end_ns
    busy, copies = session.busy_ms(), session.copy_ms()
    assert busy.keys() == {"cpu@0", "cpu@1"}
    assert all(0 < copies[device] < busy[device] for device in busy)


def test_the_arena_is_reused_between_runs(hand_made: HandMade, session: Session) -> None:
    """Nothing of an earlier run shows in a later one."""
    rng = np.random.default_rng(5)
    for _ in range(100):
        x = rng.standard_normal(LENGTH).astype(np.float32)
        check(hand_made, session.run(inputs_of(x)), x)


def test_cores_are_claimed_until_the_session_is_closed(
    hand_made: HandMade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claims lie in a file of this test, so that tests in other processes are left alone."""
    monkeypatch.setattr(claims, "_PATH", str(tmp_path / "cores"))
    monkeypatch.setattr(claims, "_CLAIMS", claims._Claims())
    code = """
import sys
from hios_tvm.errors import DeviceError
from hios_tvm.runtime.arguments import accept
from hios_tvm.runtime.devices.cpu import claims
from hios_tvm.runtime.memory import address_of
from hios_tvm.schema.device_names import parse_cores
claims._PATH = sys.argv[1]
try:
    claims.claim_cores(parse_cores(sys.argv[2]))
except DeviceError:
    print("refused")
else:
    print("claimed")
"""
    words = [sys.executable, "-c", code, str(tmp_path / "cores"), hand_made.devices[1]]

    def answer() -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    with hand_made.load(exclusive=True), hand_made.load(exclusive=True):
        assert answer() == "refused"
    assert answer() == "claimed"
    forgotten = hand_made.load(exclusive=True)
    assert answer() == "refused"
    del forgotten
    gc.collect()
    assert answer() == "claimed"
