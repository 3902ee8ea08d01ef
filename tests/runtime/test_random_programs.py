"""Random networks on random devices and streams give what NumPy gives, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hand_made import LENGTH, TARGET
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hios_tvm.artifact.buffer_plan import plan_buffers
from hios_tvm.runtime.check_manifest import check_manifest
from hios_tvm.runtime.read_artifact import Artifact
from hios_tvm.runtime.session import Session
from hios_tvm.schema.device_names import outermost
from hios_tvm.schema.manifest import Buffer, DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.program import Call, Copy, Instruction, Program, Signal, Wait

SHAPE = (LENGTH,)
Place = tuple[str, int]  # device and stream


@dataclass
class Network:
    """Operators in an order in which they can run, with programs that follow them."""

    operators: list[tuple[str, str, str, str]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    programs: dict[Place, list[Instruction]] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)

    def expected(self, x: np.ndarray) -> dict[str, np.ndarray]:
        values = {"x": x}
        for kernel, a, b, result in self.operators:
            add = kernel == "add"
            values[result] = values[a] + values[b] if add else values[a] * values[b]
        return {name: values[name] for name in self.outputs}


@st.composite
def networks(draw: st.DrawFn) -> Network:
    count = draw(st.integers(1, 3))
    devices = [f"cpu@{i}" for i in range(count)] + ["cpu@0-1"] * draw(st.booleans())
    places = [(device, stream) for device in devices for stream in (0, 1, 2)]
    network = Network()
    home: dict[str, Place] = {}  # where a value was computed or copied to
    events = 0

    def wait_for(name: str, place: Place) -> None:
        nonlocal events
        if home[name] != place:
            network.programs[home[name]].append(Signal(events))
            network.programs[place].append(Wait(events))
            events += 1

    def local(name: str, place: Place) -> str:
        """Return the buffer to read `name` from at `place`, after waiting or copying."""
        if name == "x":
            return name
        device = place[0]
        if home[name][0] != device and f"{name}@{device}" not in home:
            wait_for(name, place)
            copy = f"{name}@{device}"
            network.programs[place].append(Copy(name, copy))
            network.buffers.append(Buffer(copy, device, "arena", SHAPE, "float32"))
            home[copy] = place
        found = name if home[name][0] == device else f"{name}@{device}"
        wait_for(found, place)
        return found

    for i in range(draw(st.integers(1, 16))):
        place = draw(st.sampled_from(places))
        program = network.programs.setdefault(place, [])
        known = ["x", *(result for *_, result in network.operators)]
        kernel = draw(st.sampled_from(["add", "mul"]))
        a, b = (draw(st.sampled_from(known[-4:])) for _ in range(2))
        args = (local(a, place), local(b, place))
        result = f"t{i}"
        program.append(Call(f"op{i}", kernel, (*args, result)))
        network.operators.append((kernel, a, b, result))
        is_output = draw(st.booleans())
        home[result] = place
        if is_output:
            network.outputs.append(result)
            network.buffers.append(Buffer(result, None, "output", SHAPE, "float32"))
        else:
            network.buffers.append(Buffer(result, place[0], "arena", SHAPE, "float32"))
    return network


def make_session(network: Network, library: bytes, devices: tuple[str, str]) -> Session:
    programs = tuple(Program(*place, tuple(s)) for place, s in network.programs.items())
    buffers = [Buffer("x", None, "input", SHAPE, "float32"), *network.buffers]
    plan = plan_buffers(programs, buffers)
    names = sorted({program.device for program in programs})
    manifest = Manifest(
        tvm_version="",
        model="random",
        inputs=(TensorSpec("x", "x", SHAPE, "float32"),),
        outputs=tuple(TensorSpec(name, name, SHAPE, "float32") for name in network.outputs),
        devices=tuple(
            DeviceSpec(name, "cpu", "k.so", str(TARGET), (), plan.arena_bytes[name])
            for name in names
        ),
        programs=programs,
        buffers=plan.buffers,
    )
    check_manifest(manifest, {})
    artifact = Artifact(manifest, {"k.so": library}, None, None)
    if "cpu@0-1" in names:  # it shares cores with cpu@0 and cpu@1
        assume(devices[0] != devices[1])
        both = f"{devices[0]}+{devices[1].removeprefix('cpu@')}"
        mapping = {name: both if name == "cpu@0-1" else devices[0] for name in outermost(names)}
        return Session(artifact, devices=mapping)
    places = [devices[i % 2] for i in range(len(names))]
    return Session(artifact, devices=places)


@settings(
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(networks())
def test_every_network_runs_as_numpy_does(
    library: bytes, two_devices: tuple[str, str], network: Network
) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, LENGTH).astype(np.float32)
    with make_session(network, library, two_devices) as session:
        for factor in (1.0, 0.5, -0.25):
            inputs = x * np.float32(factor)
            outputs = session.run({"x": inputs})
            for name, expected in network.expected(inputs).items():
                np.testing.assert_array_equal(outputs[name], expected)
