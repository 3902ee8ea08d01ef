"""Attacks on frontends and compiler: damaged models, and small ones that ask for much."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from attack_runner import Attack, Attempt, ForeignBytesError
from fuzz_targets import TARGETS
from index_cases import Array, compiled
from onnx import TensorProto, helper
from onnx_models import make_model, node

from hios_tvm.frontends.onnx import from_onnx
from hios_tvm.frontends.relay import from_relay
from hios_tvm.passes.check_work import work_limit
from hios_tvm.runtime.memory_limit import memory_limit, taken_memory
from hios_tvm.schema.dtypes import numpy_dtype

_MEMORY = 1 << 30  # bytes more than the process has, which a model may take
_STEPS = 10**10  # of one kernel: what is more takes too long for a try


def _compile_and_run(module: object, path: Path) -> list[Array]:
    limits = memory_limit(_MEMORY + taken_memory()), work_limit(_STEPS)
    with limits[0], limits[1], compiled(module, path) as session:
        inputs = {
            spec.name: np.ones(spec.shape, numpy_dtype(spec.dtype)) for spec in session.inputs
        }
        return [array.copy() for array in session.run(inputs).values()]


def _onnx_runtime(model: onnx.ModelProto) -> list[Array] | None:
    """Return what ONNX Runtime computes of ones, or None where it refuses the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        feeds = {
            value.name: np.ones(value.shape, value.type[7:-1].replace("float", "float32"))
            for value in session.get_inputs()
        }
        return [np.asarray(array) for array in session.run(None, feeds)]
    except Exception:  # its errors have no common base
        return None


def _require_equal(outputs: list[Array], expected: list[Array] | None) -> None:
    if expected is None:
        return
    for ours, theirs in zip(outputs, expected, strict=True):
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise ForeignBytesError("the outputs are not those of ONNX Runtime")


# --- Damage


def _damaged(name: str, folder: Path) -> Attempt:
    """Damage the files of a target for fuzzers."""
    target = TARGETS[name]
    inputs = target.inputs(name)

    def attempt(rng: random.Random) -> None:
        target.read(target.mutate(rng.choice(inputs), rng))

    return attempt


def _damaged_and_run(folder: Path) -> Attempt:
    seeds = TARGETS["onnx"].seeds()

    def attempt(rng: random.Random) -> None:
        content = TARGETS["onnx"].mutate(rng.choice(seeds), rng)
        path = folder / "model.onnx"
        path.write_bytes(content)
        TARGETS["onnx"].read(content)
        model = onnx.load_from_string(content)
        outputs = _compile_and_run(from_onnx(model), folder / "model.hios")
        _require_equal(outputs, _onnx_runtime(model))

    return attempt


# --- Sizes


def _large(rng: random.Random) -> int:
    """Return a number from 1 to 2^62, of any magnitude."""
    return int(2 ** rng.uniform(0, 62))


def _growing(rng: random.Random) -> onnx.ModelProto:
    """Return a model whose one operator makes a tensor of a size that it says itself."""
    n = _large(rng)
    count, ones = np.array([n]), np.ones
    x, w = ones(1, np.float32), ones(min(n, 4096), np.float32)
    zero, one = np.float32(0), np.float32(1)
    pads = np.array([0, n])
    equation = rng.choice(["i,j->ij", "i,j,k->ijk", "i,i->i", "i,j,k,l->ijkl"])
    terms = equation.split("->")[0].count(",") + 1
    doubling = [f"c{i}" for i in range(min(n, 62))]
    choices: list[tuple[list[onnx.NodeProto], dict[str, Array]]] = [
        ([node("ConstantOfShape", "n", "t")], {"n": count}),
        ([node("Expand", "x n", "t")], {"n": count}),
        ([node("Tile", "x n", "t")], {"n": count}),
        ([node("Pad", "x n", "t")], {"n": pads}),
        ([node("Range", "a b c", "t")], {"a": zero, "b": np.float32(n), "c": one}),
        ([helper.make_node("Resize", ["x", "", "", "n"], ["t"])], {"n": count}),
        ([node("OneHot", "i n v", "t")], {"i": np.zeros(1, int), "n": count, "v": np.eye(2)[0]}),
        ([node("Einsum", " ".join("w" * terms), "t", equation=equation)], {"w": w}),
        (
            [node("Concat", f"{a} {a}", b, axis=0) for a, b in pairwise(["x", *doubling, "t"])],
            {},
        ),
        ([node("Gather", "w i", "t")], {"w": x, "i": np.zeros(min(n, 10**6), int)}),
        ([node("Reshape", "x n", "t")], {"n": count}),
        ([node("Upsample", "x n", "t")], {"n": np.array([n], np.float32)}),
        ([node("EyeLike", "x2", "t")], {}),
        ([node("Add", "a b", "t")], {"a": ones((min(n, 10**5), 1)), "b": ones(min(n, 10**5))}),
        ([node("CumSum", "x n", "t")], {"n": np.array(n)}),
        ([node("MatMul", "a b", "t")], {"a": ones((min(n, 8192), 1)), "b": ones((1, n % 8192))}),
    ]
    nodes, weights = rng.choice(choices)
    kept = {name: np.asarray(value) for name, value in weights.items()}
    shapes: dict[str, tuple[int, ...]] = {"x": (1,)}
    if nodes[0].op_type == "EyeLike":
        shapes["x2"] = (n, n)
    opset = 9 if nodes[0].op_type == "Upsample" else 17
    model = make_model([*nodes, node("Identity", "t", "y")], shapes, ["y"], kept, opset=opset)
    for tensor in model.graph.initializer:  # all of one element type where an operator wants that
        if tensor.data_type == TensorProto.DOUBLE:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name
                )
            )
    return model


def _windows(rng: random.Random) -> onnx.ModelProto:
    """Return a model of an operator with a window, whose attributes are of any size."""

    def size() -> int:
        return rng.choice([1, 1, 2, 3, rng.randrange(1, 40), _large(rng), -_large(rng), 0])

    operator = rng.choice(["AveragePool", "MaxPool", "Conv", "ConvTranspose", "RoiAlign", "LRN"])
    shapes = {"x": (1, 2, rng.choice([1, 5, 17]), 6)}
    weights: dict[str, Array] = {}
    window = {"strides": [size(), size()], "pads": [size() for _ in range(4)]}
    if operator in ("AveragePool", "MaxPool"):
        made = node(operator, "x", "y", kernel_shape=[size(), size()], **window)
    elif operator == "LRN":
        made = node(operator, "x", "y", size=size())
    elif operator == "RoiAlign":
        weights = {"r": np.array([[0, 0, 4, 4]], np.float32), "b": np.zeros(1, int)}
        sizes = {"output_height": size(), "output_width": size(), "sampling_ratio": size()}
        made = node(operator, "x r b", "y", **sizes)
    else:
        weights = {"w": np.ones((2, 2, 3, 3), np.float32)}
        made = node(operator, "x w", "y", dilations=[size(), size()], group=size(), **window)
    return make_model([made], shapes, ["y"], weights)


def _repeated(rng: random.Random) -> onnx.ModelProto:
    """Return a model of functions that call each other, loops or long chains of nodes."""
    domains = ["own"]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    depth = rng.randrange(1, 40)

    def function(name: str, *calls: str) -> onnx.FunctionProto:
        names = ["p", *(f"t{i}" for i in range(len(calls) - 1)), "q"]
        body = [
            helper.make_node(call, [a], [b], domain="" if call == "Neg" else "own")
            for call, a, b in zip(calls, names, names[1:], strict=False)
        ]
        return helper.make_function("own", name, ["p"], ["q"], body, imports)

    match rng.randrange(4):
        case 0:
            functions = [function("f0", "Neg")]
            functions += [function(f"f{i}", *[f"f{i - 1}"] * 2) for i in range(1, depth)]
            call = helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="own")
        case 1:
            functions = [function(f"f{i}", f"f{(i + 1) % depth}") for i in range(depth)]
            call = helper.make_node("f0", ["x"], ["y"], domain="own")
        case 2:
            names = ["x", *(f"t{i}" for i in range(rng.randrange(1, 400))), "y"]
            chain = [node(rng.choice(["Neg", "Abs"]), a, b) for a, b in pairwise(names)]
            return make_model(chain, {"x": (1,)}, ["y"])
        case _:
            return _loops(rng)
    return make_model([call], {"x": (1,)}, ["y"], domains=domains, functions=functions)


def _loops(rng: random.Random) -> onnx.ModelProto:
    """Return loops inside of each other."""

    def value(name: str, kind: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    inner = [node("Neg", "v0", "w0")]
    for level in range(rng.randrange(1, 4)):
        inputs = [value(f"i{level}", TensorProto.INT64, []), value(f"c{level}", 9, [])]
        inputs.append(value(f"v{level}", TensorProto.FLOAT, [1]))
        results = [value(f"d{level}", 9, []), value(f"w{level}", TensorProto.FLOAT, [1])]
        passed = helper.make_node("Identity", [f"c{level}"], [f"d{level}"])
        body = helper.make_graph([passed, *inner], f"b{level}", inputs, results)
        outer = f"v{level + 1}"
        inner = [helper.make_node("Loop", ["n", "", outer], [f"w{level + 1}"], body=body)]
    first = helper.make_node("Identity", ["x"], [inner[0].input[2]])
    count = np.array(min(_large(rng), 2**62))
    return make_model([first, *inner], {"x": (1,)}, [inner[0].output[0]], {"n": count})


def _models(make: Callable[[random.Random], onnx.ModelProto], folder: Path) -> Attempt:
    """Import, compile and run what `make` returns."""

    def attempt(rng: random.Random) -> None:
        model = make(rng)
        with memory_limit(_MEMORY + taken_memory()):
            module = from_onnx(model)
        outputs = _compile_and_run(module, folder / "model.hios")
        if sum(array.nbytes for array in outputs) < 1 << 24:
            _require_equal(outputs, _onnx_runtime(model))

    return attempt


_RELAY_GROWTH = (
    "repeat(%x, repeats={n}, axis=0)",
    "tile(%x, reps=[{n}])",
    'full(1f, shape=[{n}], dtype="float32")',
    "broadcast_to(%x, shape=[{n}])",
    "nn.pad(%x, 0f, pad_width=[[0, {n}]])",
    'zeros(shape=[{n}], dtype="float32")',
    'ones(shape=[{n}, {n}], dtype="float32")',
    'one_hot(cast(%x, dtype="int32"), 1f, 0f, depth={n}, axis=-1, dtype="float32")',
    'arange(0f, {n}f, 1f, start=0, stop={n}, step=1, dtype="float32")',
    "reshape(%x, newshape=[{n}])",
    "expand_dims(%x, axis=0, num_newaxis={n})",
)


def _relay_growth(folder: Path) -> Attempt:
    def attempt(rng: random.Random) -> None:
        body = rng.choice(_RELAY_GROWTH).format(n=rng.choice([-1, 1]) * _large(rng))
        text = f'#[version = "0.0.5"]\ndef @main(%x: Tensor[(1), float32]) {{ {body} }}\n'
        with memory_limit(_MEMORY + taken_memory()):
            module = from_relay(text)
        _compile_and_run(module, folder / "model.hios")

    return attempt


ATTACKS = (
    Attack("ONNX: damaged bytes, imported", partial(_damaged, "onnx"), 5000),
    Attack("ONNX: damaged bytes, compiled and run", _damaged_and_run, 300, limit_s=120),
    Attack("ONNX: sizes", partial(_models, _growing), 300, limit_s=120),
    Attack("ONNX: windows", partial(_models, _windows), 300, limit_s=120),
    Attack("ONNX: functions, loops, chains", partial(_models, _repeated), 60, limit_s=300),
    Attack("Relay: damaged text", partial(_damaged, "relay"), 5000),
    Attack("Relay: damaged JSON", partial(_damaged, "relay_json"), 5000),
    Attack("Relay: sizes", _relay_growth, 300, limit_s=120),
    Attack("parameters: damaged files", partial(_damaged, "params"), 5000),
    Attack("costs, graphs, schedules: damaged files", partial(_damaged, "json"), 5000),
)
