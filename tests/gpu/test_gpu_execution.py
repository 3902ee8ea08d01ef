"""Artifacts for GPUs, run by the real runtime on a stand-in for the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_driver import FakeDriver
from gpu_network import MODEL
from lowered_models import random, run_onnx_runtime
from onnx import TensorProto, helper, numpy_helper

from hios_tvm import runtime
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.errors import (
    ArtifactError,
    DeviceError,
    ExecutionError,
    InputError,
    RunTimeoutError,
    SessionClosedError,
)
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime.check_manifest import check_manifest
from hios_tvm.runtime.read_artifact import open_artifact, read_manifest
from hios_tvm.runtime.session import Session
from hios_tvm.schema.device_names import split_devices
from hios_tvm.schema.manifest import Manifest
from hios_tvm.schema.program import COPY_STREAM, Call, Copy, Signal, Wait
from hios_tvm.schema.schedule import Schedule

Start = Callable[..., FakeDriver]
PARTS = ("cuda:0.0/2", "cuda:0.1/2")


def random_schedule(devices: tuple[str, ...], seed: int) -> Schedule:
    """Place every operator at random, and group neighbours of one device into streams."""
    from hios_tvm.backends.cpu.targets import host_target
    from hios_tvm.backends.cuda.targets import cuda_target
    from hios_tvm.backends.network import lower_network
    from hios_tvm.schedulers import make_schedule
    from hios_tvm.schema.costs import CostTable, Measurement
    from hios_tvm.schema.platform import Device, Link, Platform

    host = host_target()
    network = lower_network(from_onnx(MODEL), host, cuda_target("sm_80", host))
    rng = np.random.default_rng(seed)
    platform = Platform(
        tuple(Device(name, model=name, streams=3 if "cuda" in name else 1) for name in devices),
        default_link=Link(0.0001, 1000.0),
    )
    latency = {
        name: {op.name: Measurement(float(rng.random())) for op in network.graph.operators}
        for name in devices
    }
    utilization = {name: {op.name: 0.1 for op in network.graph.operators} for name in devices}
    costs = CostTable(latency=latency, utilization=utilization)
    return make_schedule("hios-lp", network.graph, costs, platform)


def compiled(folder: Path, devices: tuple[str, ...], seed: int = 0) -> Path:
    """Write an artifact of code that the stand-in for the driver executes."""
    path = folder / "model.hios"
    if (devices, seed) not in _ARTIFACTS:
        schedule = random_schedule(devices, seed)
        options = CompileOptions(devices=devices, target="sm_80", schedule=schedule)
        compile_model(from_onnx(MODEL), path, options)
        _ARTIFACTS[devices, seed] = path.read_bytes()
    path.write_bytes(_ARTIFACTS[devices, seed])
    return path


_ARTIFACTS: dict[tuple[tuple[str, ...], int], bytes] = {}


def check(session: runtime.Session, seed: int) -> None:
    x = random(1, 3, 8, 7, seed=seed)
    outputs = session.run({"x": x})
    for ours, theirs in zip(outputs.values(), run_onnx_runtime(MODEL, {"x": x}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "devices",
    [
        ("cuda:0",),
        ("cuda:0", "cuda:1"),
        ("cuda:0", "cuda:1", "cuda:2"),
        ("cpu@0", "cuda:0"),
        ("cuda:0", "cpu@0", "cuda:1"),
        ("cuda:0.0/2", "cpu@0", "cuda:0.1/2", "cuda:1"),
    ],
    ids=",".join,
)
@pytest.mark.parametrize("seed", [1, 2])
def test_results_are_right(
    start: Start, tmp_path: Path, devices: tuple[str, ...], seed: int
) -> None:
    fake = start(seed=seed)
    path = compiled(tmp_path, devices, seed)
    with runtime.load(path, cuda_graph=False) as session:
        for run in range(4):
            check(session, run)
            assert fake.unordered_waits == 0
            fake.forget()
    assert not fake.allocated


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "devices",
    [("cuda:0", "cuda:1"), ("cuda:0", "cuda:1", "cuda:2"), PARTS],
    ids=",".join,
)
def test_every_access_is_ordered(
    start: Start, tmp_path: Path, devices: tuple[str, ...], seed: int
) -> None:
    """No two operations that touch the same bytes may change places, in any interleaving."""
    fake = start(seed=seed)
    path = compiled(tmp_path, devices, seed)
    manifest = read_manifest(path)
    know_accesses(fake, manifest)
    with runtime.load(path, cuda_graph=False) as session:
        check(session, 0)
        kernels = sum(operation.kind in fake.access for operation in fake.log)
        assert kernels >= len(manifest.prediction.operators)
        assert fake.hazards() == []
        # The check itself: without what waits add, accesses are not ordered
        for operation in fake.log:
            operation.before = 0
        assert fake.hazards()


def know_accesses(fake: FakeDriver, manifest: Manifest) -> None:
    """Tell the stand-in which bytes each kernel reads and writes."""
    for program in manifest.programs:
        for step in program.instructions:
            if isinstance(step, Call):
                kernel = manifest.gpu_kernels[step.kernel]
                sizes = kernel.nbytes + kernel.scratch
                for launch in kernel.launches:
                    reads = len(step.args) - step.outputs
                    fake.access[launch.symbol] = [(sizes[n], n >= reads) for n in launch.args]


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["streams", "graph"])
def test_a_missing_wait_between_parts_is_caught(
    start: Start, tmp_path: Path, cuda_graph: bool
) -> None:
    """By the proof before a run, and by what streams may do: the two agree on each wait."""
    fake = start(gpus=1)
    artifact = open_artifact(compiled(tmp_path, PARTS, seed=1))
    assert artifact.weights is not None
    weights = {name: (w.shape, w.dtype) for name, w in artifact.weights.tensors.items()}
    know_accesses(fake, artifact.manifest)
    needed = 0
    for broken in without_a_wait_between_parts(artifact.manifest):
        try:
            check_manifest(broken, weights)
            refused = False
        except ArtifactError as error:
            assert "may be" in str(error)
            refused = True
        with Session(replace(artifact, manifest=broken), cuda_graph=cuda_graph) as session:
            session.run({"x": random(1, 3, 8, 7)})
        needed += refused
        assert bool(fake.hazards()) == refused
        fake.forget()
    assert needed >= 3


def without_a_wait_between_parts(manifest: Manifest) -> Iterator[Manifest]:
    """Yield the manifest without one of the waits for other devices, again and again."""
    source = {
        step.event: program.device
        for program in manifest.programs
        for step in program.instructions
        if isinstance(step, Signal)
    }
    for p, program in enumerate(manifest.programs):
        for i, step in enumerate(program.instructions):
            if isinstance(step, Wait) and source[step.event] != program.device:
                left = program.instructions[:i] + program.instructions[i + 1 :]
                programs = list(manifest.programs)
                programs[p] = replace(program, instructions=left)
                yield replace(manifest, programs=tuple(programs))


@pytest.mark.parametrize("devices", [("cuda:0", "cuda:1"), PARTS], ids=",".join)
@pytest.mark.parametrize("seed", range(2))
def test_a_graph_gives_the_same_results(
    start: Start, tmp_path: Path, devices: tuple[str, ...], seed: int
) -> None:
    fake = start(seed=seed)
    path = compiled(tmp_path, devices, seed)
    with runtime.load(path) as session:
        for run in range(3):
            check(session, run)
        launches = sum(operation.kind == "join" for operation in fake.log)
        assert launches == 3
    assert not fake.allocated


def test_without_graphs_there_are_streams(start: Start, tmp_path: Path) -> None:
    fake = start()
    fake.captures = False
    path = compiled(tmp_path, ("cuda:0", "cuda:1"))
    with runtime.load(path) as session:
        check(session, 0)
    with pytest.raises(DeviceError, match=r"refused cuStreamBeginCapture.*\(801\)"):
        runtime.load(path, cuda_graph=True)
    assert not fake.allocated


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["streams", "graph"])
def test_the_caller_feeds_a_gpu(start: Start, tmp_path: Path, cuda_graph: bool) -> None:
    """No thread is woken for it; the context of the caller's thread stays what it was."""
    fake = start()
    path = compiled(tmp_path, ("cuda:0",))
    with runtime.load(path, cuda_graph=cuda_graph) as session:
        fake.feeders.clear()
        fake._cuCtxSetCurrent(4711)
        check(session, 0)
        assert fake.feeders == {threading.get_ident()}
        assert fake._current.context == 4711
        session.run({"x": random(1, 3, 8, 7)}, timeout=60.0)  # which another thread can watch
        assert len(fake.feeders) == 2


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["streams", "graph"])
def test_a_caller_that_feeds_can_be_interrupted(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_graph: bool
) -> None:
    monkeypatch.setattr(runtime.executor, "GRACE_S", 0.1)
    fake = start()
    path = compiled(tmp_path, ("cuda:0",))
    session = runtime.load(path, cuda_graph=cuda_graph)
    fake.hang = threading.Event()
    executor = session._shapes[0].executor
    leader = executor._leader
    assert leader is not None
    slices = iter([KeyboardInterrupt()])

    def go_on() -> int:
        """As where Python handles a signal between two slices of time."""
        for interrupt in slices:
            raise interrupt
        return leader.go_on()

    executor._leader = replace(leader, go_on=go_on)
    with pytest.raises(KeyboardInterrupt):
        session.run({"x": random(1, 3, 8, 7)})
    with pytest.raises(SessionClosedError, match="has not returned"):
        session.run({"x": random(1, 3, 8, 7)})
    session.close()
    assert fake.allocated, "a kernel uses it"
    fake.hang.set()


def test_a_graph_needs_all_operators_on_gpus(start: Start, tmp_path: Path) -> None:
    start()
    path = compiled(tmp_path, ("cuda:0", "cpu@0"))
    with pytest.raises(DeviceError, match="needs all operators on GPUs"):
        runtime.load(path, cuda_graph=True)


def test_traces_have_kernels_and_copies_of_gpus(start: Start, tmp_path: Path) -> None:
    start()
    path = compiled(tmp_path, ("cuda:0", "cpu@0", "cuda:1"), seed=1)
    manifest = read_manifest(path)
    with runtime.load(path, gpu_trace=True) as session:
        check(session, 0)
        _, trace = session.run_traced({"x": random(1, 3, 8, 7)})
    steps = [step for program in manifest.programs for step in program.instructions]
    calls = [span for span in trace.spans if span.kind == "call"]
    assert sorted(s.name for s in calls) == sorted(s.operator for s in steps if isinstance(s, Call))
    copies = [span for span in trace.spans if span.kind == "copy"]
    assert len(copies) == sum(isinstance(step, Copy) for step in steps)
    for span in trace.spans:
        assert trace.start_ns <= span.start_ns <= span.end_ns <= trace.end_ns
    for program in manifest.programs:
        spans = [s for s in calls if (s.device, s.stream) == (program.device, program.stream)]
        assert [s.name for s in sorted(spans, key=lambda s: s.start_ns)] == [
            s.operator for s in program.instructions if isinstance(s, Call)
        ]
    end_of = {span.name: span.end_ns for span in calls}
    start_of = {span.name: span.start_ns for span in calls}
    pairs = 0
    for device in manifest.devices:  # clocks of two GPUs cannot be compared so finely
        own = [s for p in manifest.programs if p.device == device.name for s in p.instructions]
        kernels = [step for step in own if isinstance(step, Call)]
        writer = {name: s.operator for s in kernels for name in s.args[len(s.args) - s.outputs :]}
        for step in kernels:
            for name in step.args[: len(step.args) - step.outputs]:
                if name in writer:
                    pairs += 1
                    assert end_of[writer[name]] <= start_of[step.operator]
    assert pairs > 0


def test_copies_have_a_stream_of_their_own(start: Start, tmp_path: Path) -> None:
    start()
    manifest = read_manifest(compiled(tmp_path, ("cuda:0", "cuda:1")))
    for program in manifest.programs:
        copies = any(isinstance(step, Copy) for step in program.instructions)
        assert copies == (program.stream == COPY_STREAM)


def test_devices_can_be_mapped_to_one_gpu(start: Start, tmp_path: Path) -> None:
    start(gpus=1)
    path = compiled(tmp_path, ("cuda:0", "cuda:1"))
    with pytest.raises(DeviceError, match="no GPU cuda:1: this process may use 1"):
        runtime.load(path)
    with runtime.load(path, devices=("cuda:0", "cuda:0")) as session:
        check(session, 0)


def test_parts_of_a_gpu_are_devices(start: Start, tmp_path: Path) -> None:
    fake = start(gpus=1)
    path = compiled(tmp_path, split_devices("cuda:0/2"), seed=3)
    with runtime.load(path, cuda_graph=False) as session:
        assert session.devices == ("cuda:0.0/2", "cuda:0.1/2")
        assert fake.split == [54, 54], "half of 108 multiprocessors each"
        assert fake.streams_of_parts == len(
            {(p.device, p.stream) for p in session.manifest.programs}
        )
        check(session, 0)
    with pytest.raises(DeviceError, match="has 108 multiprocessors, which cannot be split into 55"):
        runtime.load(path, devices=("cuda:0.0/55", "cuda:0.1/55"))
    assert not fake.allocated


def test_parts_share_memory(start: Start, tmp_path: Path) -> None:
    """Only inputs and outputs are copied; one worker feeds both parts; they stay on one GPU."""
    fake = start(gpus=2)
    path = compiled(tmp_path, PARTS, seed=3)
    manifest = read_manifest(path)
    copies = [s for p in manifest.programs for s in p.instructions if isinstance(s, Copy)]
    assert sorted(manifest.buffer[step.dst].space for step in copies) == ["arena", *["output"] * 2]
    assert {buffer.device for buffer in manifest.buffers} == {None, PARTS[0]}
    before = threading.active_count()
    for devices in (PARTS, ("cuda:1", "cuda:1"), ("cuda:0.3/4", "cuda:0.0/4")):
        with runtime.load(path, devices=devices) as session:
            assert threading.active_count() == before + 1
            check(session, 0)
    message = "share the memory of a GPU: they cannot be mapped to cuda:0 and cuda:1"
    with pytest.raises(DeviceError, match=message):
        runtime.load(path, devices=("cuda:0", "cuda:1"))
    assert not fake.allocated


def test_peer_access_that_is_already_enabled_is_no_error(start: Start, tmp_path: Path) -> None:
    start()
    path = compiled(tmp_path, ("cuda:0", "cuda:1"))
    with runtime.load(path), runtime.load(path) as second:
        check(second, 0)


def test_other_refusals_of_peer_access_are_errors(start: Start, tmp_path: Path) -> None:
    fake = start(cuCtxEnablePeerAccess=2)
    path = compiled(tmp_path, ("cuda:0", "cuda:1"))
    with pytest.raises(DeviceError, match=r"refused cuCtxEnablePeerAccess: .*\(719\)"):
        runtime.load(path)
    assert not fake.allocated


def test_an_old_driver_has_no_parts(start: Start, tmp_path: Path) -> None:
    fake = start(gpus=1)
    path = compiled(tmp_path, split_devices("cuda:0/2"))
    runtime.devices.cuda.kind.load_driver()._functions.pop("cuDeviceGetDevResource")
    with pytest.raises(DeviceError, match="too old: it has no function cuDeviceGetDevResource"):
        runtime.load(path)
    assert not fake.allocated


@pytest.mark.parametrize("function", ["cuLaunchKernel", "cuMemcpyAsync", "cuStreamWaitEvent"])
def test_a_driver_that_refuses_is_one_error_and_the_session_works_again(
    start: Start, tmp_path: Path, function: str
) -> None:
    fake = start()
    path = compiled(tmp_path, ("cuda:0", "cpu@0", "cuda:1"), seed=2)
    with runtime.load(path) as session:
        check(session, 0)
        fake.failures[function] = 2  # the second call
        with pytest.raises(ExecutionError, match="a failure that was asked for"):
            session.run({"x": random(1, 3, 8, 7)})
        check(session, 1)


def test_a_kernel_that_hangs_is_given_up(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.executor, "GRACE_S", 0.1)
    fake = start()
    path = compiled(tmp_path, ("cuda:0", "cpu@0"))
    before = set(threading.enumerate())
    session = runtime.load(path)
    check(session, 0)
    workers = set(threading.enumerate()) - before
    fake.hang = threading.Event()
    with pytest.raises(RunTimeoutError):
        session.run({"x": random(1, 3, 8, 7)}, timeout=0.2)
    with pytest.raises(SessionClosedError, match="has not returned"):
        session.run({"x": random(1, 3, 8, 7)})
    session.close()  # waits for no kernel, and frees nothing that one uses
    assert fake.allocated
    fake.hang.set()
    assert workers
    for worker in workers:
        worker.join(10.0)
        assert not worker.is_alive()


def test_memory_that_a_gpu_lacks_is_one_error(start: Start, tmp_path: Path) -> None:
    fake = start(cuMemAlloc_v2=3)
    path = compiled(tmp_path, ("cuda:0",))
    with pytest.raises(DeviceError, match=r"device 'cuda:0' needs \d+ bytes"):
        runtime.load(path)
    assert not fake.allocated


def test_code_for_another_architecture_is_one_error(start: Start, tmp_path: Path) -> None:
    start(cuLibraryLoadData=1)
    path = compiled(tmp_path, ("cuda:0",))
    with pytest.raises(ArtifactError, match=r"does not run on cuda:0 \(sm_80\)"):
        runtime.load(path)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_an_index_outside_is_an_error_of_the_inputs(
    tmp_path: Path, start: Start, cuda_graph: bool
) -> None:
    start()
    table = random(7, 5)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"], name="embedding")]
    graph = helper.make_graph(
        nodes,
        "embedding",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, (3,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 5))],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "embedding.hios"
    options = CompileOptions(devices=("cuda:0",), target="sm_80", scheduler="sequential")
    compile_model(from_onnx(model), path, options)
    with runtime.load(path, cuda_graph=cuda_graph) as session:
        for wrong in (7, -8, 2**62):
            with pytest.raises(InputError, match=f"Gather 'embedding' got the index {wrong};"):
                session.run({"ids": np.array([0, wrong, 1])})
            outputs = session.run({"ids": np.array([6, -7, 1])})
            np.testing.assert_array_equal(outputs["y"], table[[6, 0, 1]])
