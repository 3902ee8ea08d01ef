"""What the runtime itself costs: hand-over, executor, loading, memory.

Each figure stands beside that of a rival on the same kernels: Python's own primitives, TVM's stock
virtual machine, TVM's static memory planner; a run of one Relu beside ONNX Runtime's. Rivals
alternate.

    python scripts/benchmark_runtime.py --network squeezenet1_1 --devices cpu@0,cpu@1
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import tvm
from onnx.parser import parse_model
from tvm import relax, te

from hios_tvm.artifact.buffer_plan import plan_buffers
from hios_tvm.artifact.write import pack, write
from hios_tvm.backends.cpu.library import build_library
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import lower
from hios_tvm.cli.console import stderr, stdout
from hios_tvm.cli.options import print_table
from hios_tvm.compiler import CompileOptions, compile_model
from hios_tvm.frontends import load_model
from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.runtime import Session, load
from hios_tvm.runtime.devices.cpu.copies import measure_handover
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.runtime.memory import aligned_empty
from hios_tvm.runtime.read_artifact import open_artifact
from hios_tvm.runtime.trace import RunTrace
from hios_tvm.schema.device_names import parse_cores, parse_device_list
from hios_tvm.schema.manifest import Buffer, DeviceSpec, Manifest, TensorSpec
from hios_tvm.schema.program import Call, Program
from hios_tvm.verification.inputs import random_inputs
from hios_tvm.zoo import build

CHAIN = 200  # operators in a row, each so small that only the executor counts
LENGTH = 16
ROUNDS = 200
RUNS_IN_TURN = 20
RELU = """<ir_version: 10, opset_import: ["" : 18]>
relu (float[16] x) => (float[16] y) { y = Relu(x) }"""


@click.command(help=__doc__)
@click.option("--network", default="squeezenet1_1", show_default=True)
@click.option("--devices", help="As in hios-tvm compile.  [default: all cores as one device]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write JSON there.")
def main(network: str, devices: str | None, json_file: Path | None) -> None:
    names = tuple(default_devices() if devices is None else parse_device_list(devices))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, f"{network}.onnx")
        model.write_bytes(build(network).SerializeToString())
        stderr().print(f"compile {network} for {', '.join(names)} ...")
        compiled = model.with_suffix(".hios")
        module = load_model(model)
        compile_model(module, compiled, CompileOptions(devices=names), name=network)
        results = {
            "hand-over, us": handover_us(open_artifact(compiled).libraries, names),
            "executor per operator, us": executor_us(Path(folder), names[0]),
            "run of one Relu, us": relu_us(Path(folder), names[:1]),
            "load, ms": load_ms(compiled),
            "second session, resident MiB": {"hios-tvm": second_session_mib(compiled)},
            "arena, MiB": arena_mib(module, Path(folder), names[0]),
        }
        overhead = network_overhead(compiled)
    rows = [_row(what, figures) for what, figures in results.items()]
    columns = ["figure", "hios-tvm", "spread", "rival", "rival's", "spread", "ratio"]
    print_table("runtime", columns, rows)
    print_table(
        f"{network} on {', '.join(names)}: time of a run beside kernels and copies",
        ["device", "busy ms", "waits ms", "executor ms", "of busy"],
        [[name, *(f"{value:.3f}" for value in row)] for name, row in overhead.items()],
    )
    stdout().print("ratio: the rival's figure over ours, above 1 where ours is smaller")
    stdout().print(f"machine: {describe_machine()}", soft_wrap=True)
    if json_file is not None:
        data = {
            "machine": describe_machine().to_data(),
            "network": network,
            "devices": names,
            "figures": results,
            "overhead": overhead,
        }
        json_file.write_text(json.dumps(data, indent=1) + "\n")


Figure = tuple[float, float]  # median and interquartile range


def handover_us(libraries: Mapping[str, bytes], names: tuple[str, ...]) -> dict[str, Figure]:
    """One way from worker to worker, and with Python's events."""
    cores = [core for name in names for core in parse_cores(name)]
    timing = measure_handover(next(iter(libraries.values())), (cores[0],), (cores[-1],))
    return {
        "hios-tvm": (1000 * timing.ms, 1000 * timing.spread_ms),
        "threading.Event": _python_handover_us(),
    }


def executor_us(folder: Path, device: str) -> dict[str, Figure]:
    """Time per operator of a chain of tiny kernels, runs of both sides in turn."""
    kernel = _tiny_kernel()
    x = np.zeros(LENGTH, np.float32)
    machine = _chain_virtual_machine(kernel)
    argument = tvm.runtime.tensor(x)
    ours, theirs = [], []
    with load(_chain_artifact(folder / "chain.hios", kernel, device)) as session:
        for _ in range(ROUNDS):
            session.run({"x": x})
            spans = session.last_trace().spans
            ours.append((spans[-1].end_ns - spans[0].start_ns) / CHAIN / 1000)
            theirs.append(_us(partial(machine, argument)) / CHAIN)
    return {"hios-tvm": _figure(ours), "tvm virtual machine": _figure(theirs)}


def relu_us(folder: Path, devices: tuple[str, ...]) -> dict[str, Figure]:
    """Time of a run of a network of one Relu, which is all overhead, both sides in turn."""
    model = parse_model(RELU)
    compiled = folder / "relu.hios"
    compile_model(from_onnx(model), compiled, CompileOptions(devices=devices), name="relu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    rival = onnxruntime.InferenceSession(model.SerializeToString(), options)
    inputs = {"x": aligned_empty((LENGTH,), "float32")}
    inputs["x"][...] = 1
    ours, theirs = [], []
    with load(compiled) as session:
        for _ in range(ROUNDS):  # a turn is of many runs, as those of a busy program
            ours += [_us(partial(session.run, inputs)) for _ in range(RUNS_IN_TURN)]
            theirs += [_us(partial(rival.run, None, inputs)) for _ in range(RUNS_IN_TURN)]
    return {"hios-tvm": _figure(ours), "ONNX Runtime": _figure(theirs)}


def _us(run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1000


def load_ms(artifact: Path) -> dict[str, Figure]:
    """Time of `load` after the imports, in fresh processes; then of a second session."""
    script = (
        "import sys, time, tvm; from hios_tvm.runtime import load\n"
        "for _ in range(2):\n"
        "    start = time.perf_counter(); session = load(sys.argv[1])\n"
        "    print(1000 * (time.perf_counter() - start))\n"
        "    keep = session\n"
    )
    runs = [_output(script, artifact) for _ in range(7)]
    return {
        "hios-tvm": _figure([run[0] for run in runs]),
        "second session": _figure([run[1] for run in runs]),
    }


def second_session_mib(artifact: Path) -> Figure:
    """Memory that one more session of the same artifact takes, after a run of each."""
    script = (
        "import sys; from pathlib import Path; from hios_tvm.runtime import load\n"
        "from hios_tvm.runtime.memory import aligned_empty\n"
        "def resident():\n"
        "    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 2**20\n"
        "sessions, last = [], 0.0\n"
        "for _ in range(2):\n"
        "    sessions.append(load(sys.argv[1]))\n"
        "    x = {i.name: aligned_empty(i.shape, i.dtype) for i in sessions[-1].inputs}\n"
        "    sessions[-1].run(x)\n"
        "    print(resident() - last); last = resident()\n"
    )
    return _figure([_output(script, artifact)[1] for _ in range(5)])


def arena_mib(module: tvm.IRModule, folder: Path, device: str) -> dict[str, Figure]:
    """Planned memory of activations on one device, and what TVM's planner allocates."""
    path = folder / "one.hios"
    options = CompileOptions(devices=(device,), scheduler="sequential")
    manifest = compile_model(module, path, options).manifest
    ours = sum(spec.arena_bytes for spec in manifest.devices)
    ours += sum(buffer.nbytes for buffer in manifest.buffers if buffer.space == "output")
    planned = tvm.transform.Sequential(
        [
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
        ]
    )(relax.transform.ToNonDataflow()(lower(module, host_target())))
    theirs = 0

    def visit(expression: relax.Expr) -> None:
        nonlocal theirs
        if isinstance(expression, relax.Call) and isinstance(expression.op, tvm.ir.Op):
            if expression.op.name == "relax.memory.alloc_storage":
                theirs += int(np.prod([int(size) for size in expression.args[0]]))
            elif expression.op.name == "relax.builtin.alloc_tensor":  # the outputs
                shape = [int(size) for size in expression.args[0]]
                theirs += int(np.prod(shape)) * np.dtype(str(expression.args[1].value)).itemsize

    relax.analysis.post_order_visit(planned["main"].body, visit)
    return {"hios-tvm": (ours / 2**20, 0.0), "tvm planner": (theirs / 2**20, 0.0)}


def network_overhead(artifact: Path) -> dict[str, list[float]]:
    """Per device: ms in kernels and copies, in waits, and the rest; the rest over the busy time."""
    with load(artifact) as session:
        inputs = random_inputs(session.inputs, seed=0)
        for _ in range(5):
            session.run(inputs)
        runs = [_split(session, inputs) for _ in range(50)]
    table = {}
    for name in runs[0]:
        busy, waits, rest = np.median([run[name] for run in runs], axis=0)
        table[name] = [float(busy), float(waits), float(rest), float(rest / busy)]
    return table


def _split(session: Session, inputs: Mapping[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    _, trace = session.run_traced(inputs)
    latency = (trace.end_ns - trace.start_ns) / 1e6
    busy, waits = trace.milliseconds("call", "copy"), trace.milliseconds("wait")
    idle = _idle_after_program(trace)
    return {
        name: (
            busy[name],
            waits[name] + idle[name],
            latency - busy[name] - waits[name] - idle[name],
        )
        for name in busy
    }


def _idle_after_program(trace: RunTrace) -> dict[str, float]:
    """Milliseconds from the end of a device's programs to the end of the last device's."""
    ends = {span.device: 0 for span in trace.spans}
    for span in trace.spans:
        ends[span.device] = max(ends[span.device], span.end_ns)
    last = max(ends.values())
    return {device: (last - end) / 1e6 for device, end in ends.items()}


def _tiny_kernel() -> tvm.tirx.PrimFunc:
    x = te.placeholder((LENGTH,), "float32", name="x")
    y = te.compute((LENGTH,), lambda i: x[i] + tvm.tirx.const(1.0, "float32"), name="y")
    return te.create_prim_func([x, y]).with_attr("global_symbol", "increment")


def _chain_artifact(path: Path, kernel: tvm.tirx.PrimFunc, device: str) -> Path:
    names = ["x", *(f"t{i}" for i in range(1, CHAIN)), "y"]
    shape = (LENGTH,)
    buffers = [Buffer(name, device, "arena", shape, "float32") for name in names[1:-1]]
    buffers += [Buffer("x", None, "input", shape, "float32")]
    buffers += [Buffer("y", None, "output", shape, "float32")]
    calls = tuple(Call(f"op{i}", "increment", (names[i], names[i + 1])) for i in range(CHAIN))
    program = Program(device, 0, calls)
    plan = plan_buffers([program], buffers)
    target = host_target()
    manifest = Manifest(
        tvm_version=tvm.__version__,
        model="chain",
        inputs=(TensorSpec("x", "x", shape, "float32"),),
        outputs=(TensorSpec("y", "y", shape, "float32"),),
        devices=(DeviceSpec(device, "cpu", None, str(target), (), plan.arena_bytes[device]),),
        programs=(program,),
        buffers=plan.buffers,
    )
    library = build_library(tvm.IRModule({"increment": kernel}), target)
    write(pack(manifest, {device: library}, {}), path)
    return path


def _chain_virtual_machine(kernel: tvm.tirx.PrimFunc) -> Callable[..., Any]:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((LENGTH,), "float32"))
    increment = builder.add_func(kernel.without_attr("global_symbol"), "increment")
    with builder.function("main", [x]):
        with builder.dataflow():
            value: relax.Expr = x
            for _ in range(CHAIN):
                value = builder.emit(relax.call_tir(increment, [value], x.ty))
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    executable = tvm.compile(builder.get(), host_target())
    machine: Callable[..., Any] = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return machine


def _python_handover_us() -> Figure:
    first, second = threading.Event(), threading.Event()
    trips = 300

    def answer() -> None:
        for _ in range(trips):
            first.wait()
            first.clear()
            second.set()

    thread = threading.Thread(target=answer)
    thread.start()
    samples = []
    for _ in range(trips):
        start = time.perf_counter_ns()
        first.set()
        second.wait()
        second.clear()
        samples.append((time.perf_counter_ns() - start) / 2000)
    thread.join()
    return _figure(samples)


def _output(script: str, artifact: Path) -> list[float]:
    command = [sys.executable, "-c", script, str(artifact)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(line) for line in result.stdout.split()]


def _figure(samples: Any) -> Figure:
    low, median, high = np.percentile(samples, (25, 50, 75))
    return float(median), float(high - low)


def _row(what: str, figures: Mapping[str, Figure]) -> list[str]:
    (ours, spread), *others = figures.values()
    row = [what, f"{ours:.3f}", f"{spread:.3f}"]
    if not others:
        return [*row, "", "", "", ""]
    rival, (theirs, their_spread) = list(figures)[1], others[0]
    return [*row, rival, f"{theirs:.3f}", f"{their_spread:.3f}", f"{theirs / ours:.2f}"]


if __name__ == "__main__":
    main()
