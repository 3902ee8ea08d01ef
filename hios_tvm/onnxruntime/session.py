"""A model that is compiled when it is first used, with the methods of ONNX Runtime's session."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from hios_tvm.compiled_code import default_cache_dir
from hios_tvm.errors import InputError, ModelError, UsageError
from hios_tvm.frontends.onnx.files import read_model
from hios_tvm.onnxruntime.kept_artifacts import load_or_compile
from hios_tvm.onnxruntime.options import (
    RunOptions,
    SessionOptions,
    get_available_providers,
    warn_of_other_providers,
)
from hios_tvm.onnxruntime.signature import (
    ModelMetadata,
    NodeArg,
    signature_of_artifact,
    signature_of_model,
)
from hios_tvm.onnxruntime.values import IOBinding, OrtValue
from hios_tvm.runtime import Session, load
from hios_tvm.runtime.arguments import AnyTensor
from hios_tvm.runtime.devices.cpu.cores import allowed_cores
from hios_tvm.schema.device_names import cpu_device_name, parse_device_list

Array = np.ndarray[Any, Any]


class InferenceSession:
    """A model that can be run as ONNX Runtime runs it.

    It is compiled when the session is made, or, where its inputs have symbolic dimensions, when it
    is first run with new shapes. Artifacts are kept in the user's cache folder: the next session
    of the same model loads them.

    Parameters
    ----------
    path_or_bytes
        An ONNX file, its content, or an artifact (``.hios``).
    sess_options : SessionOptions, optional
        What `SessionOptions` of this module, or of ONNX Runtime, says of threads.
    providers : optional
        As in ONNX Runtime. The CPU runs the model, whatever they are; others are warned of.
    provider_options
        Accepted and without effect.
    devices : str or sequence of str, optional
        As `hios_tvm.compile` takes them, in place of the number of threads.
    cache_dir : Path, optional
        Folder in place of the user's cache folder.
    options
        More fields of `CompileOptions`.

    Raises
    ------
    HiosError
        If the model cannot be read or compiled, or its artifact does not compute what ONNX Runtime
        does.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Any] | None = None,
        *,
        devices: str | Sequence[str] | None = None,
        cache_dir: Path | None = None,
        **options: Any,
    ) -> None:
        warn_of_other_providers(providers)
        self._path = None if isinstance(path_or_bytes, bytes) else Path(path_or_bytes)
        self._devices = _devices(devices, getattr(sess_options, "intra_op_num_threads", 0))
        self._cache_dir = cache_dir or default_cache_dir()
        self._options = options
        self._lock = threading.Lock()
        self._sessions: dict[tuple[tuple[int, ...], ...], Session] = {}
        self._model: ModelProto | None = None
        self._fixed: Session | None = None
        if self._path is not None and self._path.suffix == ".hios":
            self._fixed = load(self._path)
            self._signature = signature_of_artifact(self._fixed.manifest)
            return
        self._model = _read(path_or_bytes) if self._path is None else read_model(self._path)
        dimensions = getattr(sess_options, "free_dimensions", {})
        self._signature = signature_of_model(self._model, dimensions)
        if self._signature.is_static:
            self._fixed = self._compile({item.name: item.shape for item in self.get_inputs()})

    def get_inputs(self) -> list[NodeArg]:
        """Return what `run` needs."""
        return list(self._signature.inputs)

    def get_outputs(self) -> list[NodeArg]:
        """Return what `run` returns."""
        return list(self._signature.outputs)

    def get_modelmeta(self) -> ModelMetadata:
        """Return what the author of the model wrote into it."""
        return self._signature.metadata

    def get_providers(self) -> list[str]:
        """Return what runs the model."""
        return get_available_providers()

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, AnyTensor],
        run_options: RunOptions | None = None,
    ) -> list[Array]:
        """Run the model once.

        Parameters
        ----------
        output_names : sequence of str, optional
            Which outputs to return, in which order; None for all.
        input_feed : mapping of str to tensor
            As `Session.run` takes them.

        Raises
        ------
        UsageError
            If an output is unknown.
        InputError, ExecutionError
            As `Session.run`.
        """
        return self.run_into(output_names or None, input_feed, None)

    def run_into(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, AnyTensor],
        out: Mapping[str, Array] | None,
    ) -> list[Array]:
        """Run the model once, with some outputs written into given arrays."""
        outputs = self._session_for(input_feed).run(input_feed, out=out)
        if output_names is None:
            return list(outputs.values())
        for name in output_names:
            if name not in outputs:
                raise UsageError(f"output {name!r} is unknown; there are {', '.join(outputs)}")
        return [outputs[name] for name in output_names]

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """Run the model once on `OrtValue` inputs."""
        feed = {name: value.numpy() for name, value in input_dict_ort_values.items()}
        return [OrtValue(array) for array in self.run(output_names, feed)]

    def io_binding(self) -> IOBinding:
        """Return an object to bind inputs and outputs with, for `run_with_iobinding`."""
        return IOBinding(self)

    def run_with_iobinding(
        self, iobinding: IOBinding, run_options: RunOptions | None = None
    ) -> None:
        """Run the model once on what is bound."""
        iobinding.run()

    def __repr__(self) -> str:
        path = "a model in memory" if self._path is None else self._path
        return f"<InferenceSession of {path} on {', '.join(self._devices)}>"

    def _session_for(self, feed: Mapping[str, AnyTensor]) -> Session:
        if self._fixed is not None:
            return self._fixed
        missing = [item.name for item in self.get_inputs() if item.name not in feed]
        if missing:
            raise InputError(f"inputs: {', '.join(map(repr, missing))} missing")
        shapes = {item.name: np.shape(_array(feed[item.name])) for item in self.get_inputs()}
        key = tuple(shapes.values())
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = self._compile(shapes)
            return self._sessions[key]

    def _compile(self, shapes: Mapping[str, Sequence[Any]]) -> Session:
        assert self._model is not None
        return load_or_compile(
            self._model,
            self._path,
            shapes={name: tuple(shape) for name, shape in shapes.items()},
            devices=self._devices,
            cache_dir=self._cache_dir,
            options=self._options,
        )


def _array(tensor: AnyTensor) -> Array:
    return tensor if isinstance(tensor, np.ndarray) else np.from_dlpack(tensor)


def _devices(devices: str | Sequence[str] | None, threads: int) -> tuple[str, ...]:
    if devices is not None:
        return parse_device_list(devices) if isinstance(devices, str) else tuple(devices)
    cores = sorted(allowed_cores())
    return (cpu_device_name(cores[: threads or len(cores)]),)


def _read(content: object) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError, a class without type hints
        raise ModelError("these bytes are not an ONNX model") from error
    return model
