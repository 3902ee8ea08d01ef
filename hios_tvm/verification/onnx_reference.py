"""ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hios_tvm.errors import ModelError, UsageError
from hios_tvm.files import temporary_folder
from hios_tvm.verification.deviation import Arrays
from hios_tvm.verification.reference import Reference, Step, perturbed

if TYPE_CHECKING:
    import onnx
    from tvm.ir import IRModule

LARGEST_CONTENT = 2**31 - 2**20  # bytes; one message of Protocol Buffers holds no more than 2 GB

_SHAPES_ONLY = ("Shape", "Size")


class OnnxReference(Reference):
    """An ONNX model in ONNX Runtime.

    Parameters
    ----------
    model : path or onnx.ModelProto
        The file, with its external data beside it, or the model itself.
    shapes : mapping of input name to shape, optional
        As the frontend takes them.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | onnx.ModelProto,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self._source = Path(model) if isinstance(model, str | os.PathLike) else model
        self._shapes = dict(shapes or {})
        self._sessions: dict[bool, Any] = {}

    @property
    def runner(self) -> str:
        return f"ONNX Runtime {_onnxruntime().__version__}"

    @cached_property
    def _model(self) -> onnx.ModelProto:
        import onnx

        return onnx.load(self._source) if isinstance(self._source, Path) else self._source

    @cached_property
    def steps(self) -> Sequence[Step]:
        graph = self._model.graph
        weights = _weights(graph)
        computed = {value.name for value in graph.input if value.name not in weights}
        steps = []
        for node in graph.node:
            reads = tuple(name for name in dict.fromkeys(_reads(node)) if name not in weights)
            is_computed = node.op_type not in _SHAPES_ONLY and not computed.isdisjoint(reads)
            writes = tuple(name for name in node.output if name)
            computed.update(writes if is_computed else ())
            steps.append(Step(node.op_type, node.name, reads, writes, is_computed))
        return steps

    @property
    def outputs(self) -> Sequence[str]:
        return [value.name for value in self._model.graph.output]

    @cached_property
    def output_steps(self) -> Mapping[str, float]:
        from hios_tvm.verification.quantized_layers import output_steps

        return output_steps(self._model.graph)

    def in_layers(self, draws: Sequence[Arrays]) -> tuple[Reference, tuple[Arrays, ...]] | None:
        from hios_tvm.verification import quantized_layers as layers

        computed = {name for step in self.steps if step.is_computed for name in step.writes}
        tensors = layers.quantized_in_memory(self._model.graph, computed)
        if not tensors:
            return None
        whole = OnnxReference(layers.with_outputs(self._model, tensors))
        found = [whole.run(draw) for draw in draws]
        cut = layers.cut_at(self._model, {name: found[0][name] for name in tensors})
        inputs = [
            {**draw, **{layers.given(name): values[name] for name in tensors}}
            for draw, values in zip(draws, found, strict=True)
        ]
        return OnnxReference(cut), tuple(inputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return self._run(inputs, optimized=True)

    def run_otherwise(
        self, inputs: Arrays, rounding: float = 0.0
    ) -> Iterable[dict[str, np.ndarray]]:
        yield self._run(inputs, optimized=False)
        yield self.run(perturbed(inputs, 0, rounding))
        yield self.run(perturbed(inputs, 1, rounding))

    def module(self) -> IRModule:
        from hios_tvm.frontends.onnx import from_onnx, load_onnx

        if isinstance(self._source, Path):
            return load_onnx(self._source, shapes=self._shapes)
        return from_onnx(self._source, shapes=self._shapes)

    def save(self, folder: Path) -> Path:
        import onnx

        path, model = folder / "model.onnx", self._model
        if model.ByteSize() < LARGEST_CONTENT:
            onnx.save(model, path)
            return path
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # weights are moved out of what is saved
        onnx.save(copy, path, save_as_external_data=True, location="weights.bin")
        return path

    def _cut(self, steps: Sequence[Step], inputs: Arrays, outputs: Sequence[str]) -> OnnxReference:
        import onnx

        model, graph = self._model, self._model.graph
        chosen = {name for step in steps for name in step.writes}
        nodes = [node for node in graph.node if not chosen.isdisjoint(node.output)]
        read = {name for node in nodes for name in _reads(node)}
        cut = onnx.helper.make_graph(
            nodes,
            "part",
            [_value_info(name, array) for name, array in inputs.items()],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [weight for weight in graph.initializer if weight.name in read],
        )
        cut.sparse_initializer.extend(
            weight for weight in graph.sparse_initializer if weight.values.name in read
        )
        made = onnx.helper.make_model(
            cut, opset_imports=model.opset_import, functions=model.functions
        )
        made.ir_version = max(model.ir_version, 4)  # earlier ones list weights as inputs
        return OnnxReference(made)

    def _run(self, inputs: Arrays, *, optimized: bool) -> dict[str, np.ndarray]:
        session = self._session(optimized)
        known = {value.name for value in session.get_inputs()}
        names = [output.name for output in session.get_outputs()]
        try:
            results = session.run(names, {k: v for k, v in inputs.items() if k in known})
        except Exception as error:  # its exceptions have no common base but this
            raise _cannot_run(error) from error
        for name, result in zip(names, results, strict=True):
            if not isinstance(result, np.ndarray):
                raise ModelError(f"output {name!r} is no tensor")
        return dict(zip(names, results, strict=True))

    def _session(self, optimized: bool) -> Any:
        if optimized not in self._sessions:
            with self._file_or_content() as model:
                self._sessions[optimized] = _opened(model, optimized)
        return self._sessions[optimized]

    @contextmanager
    def _file_or_content(self) -> Iterator[str | bytes]:
        """Yield the model as ONNX Runtime takes it: above 2 GB, only as a file."""
        if isinstance(self._source, Path):
            yield str(self._source)
        elif self._source.ByteSize() < LARGEST_CONTENT:
            yield self._source.SerializeToString()
        else:
            with temporary_folder() as folder:
                yield str(self.save(folder))


def onnxruntime_outputs(model: Path | onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """Run `model` in ONNX Runtime once.

    Raises
    ------
    UsageError
        If ONNX Runtime is not installed.
    ModelError
        If it cannot run the model.
    """
    return OnnxReference(model).run(inputs)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "the package onnxruntime cannot be imported; run: pip install onnxruntime"
        ) from error
    return onnxruntime


def _opened(model: str | bytes, optimized: bool) -> Any:
    """Return a session of ONNX Runtime whose sums are exact, where it takes the model so."""
    onnxruntime, failure = _onnxruntime(), None
    # The second try is for weights that share a zero point, on which its way to exact sums fails
    for is_exact in (True, False) if _sums_saturate() else (False,):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4 if is_exact else 3  # what fails is an exception as well
        if is_exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if not optimized:
            levels = onnxruntime.GraphOptimizationLevel
            options.graph_optimization_level = levels.ORT_DISABLE_ALL
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            failure = error
    assert failure is not None
    raise _cannot_run(failure) from failure


@cache
def _sums_saturate() -> bool:
    """Whether sums of products of 8 bits are wrong here unless ONNX Runtime is told otherwise.

    On CPUs without VNNI it adds pairs of such products in 16 bits.
    """
    from onnx import TensorProto, helper, numpy_helper

    data, weight = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, data.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (1, 16))],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = _onnxruntime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    sums = session.run(None, {"x": data})[0]
    return not np.array_equal(sums, data.astype(np.int32) @ weight.astype(np.int32))


def _cannot_run(error: Exception) -> ModelError:
    reason = " ".join(str(error).split())
    return ModelError(f"ONNX Runtime cannot run the model: {reason}")


def _weights(graph: onnx.GraphProto) -> set[str]:
    dense = {weight.name for weight in graph.initializer}
    return dense | {weight.values.name for weight in graph.sparse_initializer}


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads; its subgraphs may read any tensor of the graphs around them."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {value.name for value in graph.input} | _weights(graph)
            own.update(name for inner in graph.node for name in inner.output)
            yield from (name for inner in graph.node for name in _reads(inner) if name not in own)
            yield from (value.name for value in graph.output if value.name not in own)


def _value_info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, element, array.shape)
