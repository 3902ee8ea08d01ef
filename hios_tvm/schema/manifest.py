"""The manifest of an artifact: everything about a compiled model but its code and weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from hios_tvm.errors import ArtifactError, GraphError
from hios_tvm.schema.dtypes import tensor_bytes
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.launches import GpuKernel
from hios_tvm.schema.program import Call, Program
from hios_tvm.schema.recipe import Recipe
from hios_tvm.schema.strict_json import decode, encode, parse
from hios_tvm.schema.value_checks import ValueCheck

FORMAT_VERSION = 4
REBUILD_COMMAND = "hios-tvm compile"
ALIGNMENT = 64
"""Bytes; generated kernels load whole cache lines and vectors."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the model under its original `name`, and the buffer that holds it."""

    name: str
    buffer: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.shape, self.dtype)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"{self.name} {self.dtype} {shape}"


@dataclass(frozen=True)
class Buffer:
    """Memory of one tensor.

    Attributes
    ----------
    name : str
        Unique in the artifact; of a ``param`` buffer also its name among the weights, stored or
        prepared, with ``@device`` behind it where it is a GPU's copy.
    device : str or None
        Whose memory it is; None for memory that all CPU devices read and write.
    space : {"input", "output", "param", "arena"}
        Given by the caller of a run, returned to it, a weight, or planned memory.
    offset : int or None
        Bytes from the start of the device's arena; None outside of arenas.
    """

    name: str
    device: str | None
    space: Literal["input", "output", "param", "arena"]
    shape: tuple[int, ...]
    dtype: str
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.shape, self.dtype)

    @property
    def weight(self) -> str:
        """Name of a ``param`` buffer among the weights."""
        return self.name if self.device is None else self.name.removesuffix(f"@{self.device}")


@dataclass(frozen=True)
class PreparedWeight:
    """A weight that a kernel of the CPUs computes once, when the artifact is loaded.

    Attributes
    ----------
    name : str
        Of its ``param`` buffer, which has its shape and type.
    kernel : str
    source : str
        The tensor of ``sources.safetensors`` that the kernel reads.
    """

    name: str
    kernel: str
    source: str


@dataclass(frozen=True)
class DeviceSpec:
    """A device that the artifact was compiled for.

    `library` is the entry with the executor and, for a CPU, the kernels (None where it has no
    work), `device_code` the entry with those of a GPU, `target` TVM's target, `cpu_features` the
    instruction sets that the library uses, in the words of /proc/cpuinfo.
    """

    name: str
    kind: str
    library: str | None
    target: str
    cpu_features: tuple[str, ...]
    arena_bytes: int
    device_code: str | None = None


@dataclass(frozen=True)
class PredictedOperator:
    """When an operator should run, in milliseconds; `cost_ms` is its time alone on its device."""

    operator: str
    cost_ms: float
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class PredictedTransfer:
    """When the outputs of operator `src` should be copied to the device of operator `dst`."""

    src: str
    dst: str
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Prediction:
    """What the evaluator expects of a run; empty where the costs of operators are not known.

    The operators of a stage end together. `work_ms` is the time of each device's stages as if it
    ran alone, `independence` that of the platform (`Platform.independence`).
    """

    operators: tuple[PredictedOperator, ...] = ()
    transfers: tuple[PredictedTransfer, ...] = ()
    makespan_ms: float | None = None
    work_ms: Mapping[str, float] = field(default_factory=dict)
    independence: float = 1.0


@dataclass(frozen=True)
class OutputError:
    """How far an output was from its reference when the artifact was made.

    Attributes
    ----------
    output : str
    error : float
        Largest error over all draws, relative to the output's largest magnitude.
    allowed : float
        What it might have been. 0 for whole numbers and truth values, which have to be equal
        where rounding does not decide.
    """

    output: str
    error: float
    allowed: float


@dataclass(frozen=True)
class Verification:
    """Whether the artifact was run against a reference before it was written.

    Attributes
    ----------
    verified : bool
    reason : str
        Why it was not verified.
    reference : str
        What it was compared with, with its version.
    seeds : tuple of int
        Of the random inputs, one for each draw.
    scale : int
        What the random inputs were multiplied with, so that the outputs depend on them.
    outputs : tuple of OutputError
    notes : tuple of str
        What limits the meaning of the comparison, in sentences.
    """

    verified: bool = False
    reason: str = "the artifact does not say"
    reference: str = ""
    seeds: tuple[int, ...] = ()
    scale: int = 1
    outputs: tuple[OutputError, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.verified:
            return f"not verified: {self.reason}"
        worst = max((output.error for output in self.outputs), default=0.0)
        return (
            f"verified against {self.reference}: largest error {worst:.1e} of the largest "
            f"magnitude, {len(self.seeds)} draws"
        )


@dataclass(frozen=True)
class Batch:
    """A dimension of a model whose rows are computed apart from each other, in the same way.

    A run of fewer rows than a program has may repeat a row, and leave out what comes of that.

    Attributes
    ----------
    inputs, outputs : mapping of str to int
        Axis of the rows, by the name of the tensor; others are the same for all rows. An output
        may have several entries along its axis for each row.
    smallest, largest : int
        The rows that a run may have: for these it was proven.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    smallest: int
    largest: int

    def rows(self, shape: Mapping[str, tuple[int, ...]]) -> int:
        """Return the rows of inputs of this shape."""
        name, axis = next(iter(self.inputs.items()))
        return shape[name][axis]


MAX_SHAPES = 64
"""Of an artifact: each has programs, and worker threads in every session."""


@dataclass(frozen=True)
class Shapes:
    """More shapes of the same model.

    `others` names the entries that hold their manifests, which use the same weights. `batch` says
    which sizes between the shapes can be run.
    """

    others: tuple[str, ...]
    batch: Batch | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Manifest:
    """What ``manifest.json`` holds: a model of one shape.

    Where there are `shapes`, it is the largest one. The manifests of the others have no `shapes`
    themselves, and their `entries` are the same but for these manifests.

    `prepared` weights are computed before the first run, `checks` are made after each run.
    `gpu_kernels` says how the kernels of GPUs are launched.
    `entries` maps each other entry of the archive but its signature to its SHA-256 (hex).

    `replicas` are devices for more sessions that `Session.run_many` uses: for each session one in
    the place of each of the artifact's own, parts of these left out. Each session, the first one
    included, has memory for as many inputs as `in_flight` says, whose runs overlap.
    `graph` is the operator graph that was scheduled; the runtime compares what calls write with it.
    It does not use what follows, which is for people and for later commands. `recipe` says how
    kernels were made. `schedule` and `compile_info` are plain JSON objects.
    """

    format_version: int = FORMAT_VERSION
    tvm_version: str
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    devices: tuple[DeviceSpec, ...]
    programs: tuple[Program, ...]
    buffers: tuple[Buffer, ...]
    prepared: tuple[PreparedWeight, ...] = ()
    checks: tuple[ValueCheck, ...] = ()
    gpu_kernels: Mapping[str, GpuKernel] = field(default_factory=dict)
    entries: Mapping[str, str] = field(default_factory=dict)
    graph: OperatorGraph | None = None
    shapes: Shapes | None = field(default=None, metadata={"optional": True})
    replicas: tuple[tuple[str, ...], ...] = field(default=(), metadata={"optional": True})
    in_flight: int = field(default=1, metadata={"optional": True})
    recipe: Recipe = field(default_factory=Recipe)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    prediction: Prediction = Prediction()
    verification: Verification = Verification()
    compile_info: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def buffer(self) -> Mapping[str, Buffer]:
        """Buffers by name."""
        return {buffer.name: buffer for buffer in self.buffers}

    @cached_property
    def device(self) -> Mapping[str, DeviceSpec]:
        """Devices by name."""
        return {device.name: device for device in self.devices}

    @property
    def shape(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs, by name."""
        return {spec.name: spec.shape for spec in self.inputs}

    @property
    def summary(self) -> str:
        """The model with its inputs and outputs, in a few words."""
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"{self.model} ({inputs}) -> {outputs}"

    def __repr__(self) -> str:
        return f"<Manifest of {self.summary} on {', '.join(d.name for d in self.devices)}>"

    def calls(self) -> Iterator[tuple[str, Call]]:
        """Yield the calls of all programs, with their devices."""
        for program in self.programs:
            for step in program.instructions:
                if isinstance(step, Call):
                    yield program.device, step

    @property
    def notes(self) -> tuple[str, ...]:
        """What the compiler said of the kernels; none where the artifact says something else."""
        notes = self.compile_info.get("notes", ())
        is_text = isinstance(notes, (list, tuple)) and all(isinstance(note, str) for note in notes)
        return tuple(notes) if is_text else ()

    @property
    def rebuild_command(self) -> str:
        """The command that makes the artifact again, for messages."""
        return _rebuild_command(self.compile_info)

    def to_json(self) -> bytes:
        """Return the manifest as UTF-8 JSON; `from_json` restores an equal one."""
        return json.dumps(encode(self), separators=(",", ":"), allow_nan=False).encode()

    @staticmethod
    def from_json(text: bytes) -> Manifest:
        """Read what `to_json` wrote.

        Raises
        ------
        ArtifactError
            If a field is unknown, missing, or of another type, or the format has another version.
        """
        data = parse(text)
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"the artifact has format version {version!r}, this runtime reads version "
                f"{FORMAT_VERSION}"
            )
        try:
            manifest: Manifest = decode(Manifest, data, "manifest")
        except GraphError as error:
            raise ArtifactError(f"manifest.graph: {error}") from error
        for name in ("schedule", "compile_info"):
            if not isinstance(getattr(manifest, name), Mapping):
                raise ArtifactError(f"manifest.{name} must be an object")
        return manifest


def rebuild_command(manifest: bytes) -> str:
    """Return the command that makes an artifact again, by a manifest of whatever version.

    >>> rebuild_command(b'{"compile_info": {"command": "hios-tvm profile export net"}}')
    'hios-tvm profile export net'
    """
    try:
        data = parse(manifest)
    except ArtifactError:
        return REBUILD_COMMAND
    return _rebuild_command(data.get("compile_info") if isinstance(data, dict) else None)


def _rebuild_command(compile_info: Any) -> str:
    command = compile_info.get("command") if isinstance(compile_info, Mapping) else None
    return command if isinstance(command, str) else REBUILD_COMMAND
