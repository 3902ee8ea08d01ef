"""Several shapes of one model in one artifact: equal weights and equal code are in it once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hios_tvm.artifact.write import Build, Chunks, content_of, safetensors, sha256_of
from hios_tvm.errors import UsageError
from hios_tvm.runtime.artifact_format import PARAMS, SOURCES
from hios_tvm.runtime.check_manifest import check_shapes
from hios_tvm.runtime.devices import kind_of
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.manifest import Batch, Manifest, Shapes
from hios_tvm.schema.program import Call, Copy, Instruction

_Names = Mapping[str, str]


def combine(builds: Sequence[Build], batch: Batch | None) -> Build:
    """Put the artifacts of several shapes of one model into one.

    Parameters
    ----------
    builds : sequence of Build
        One for each shape, the largest first.
    batch : Batch, optional
        Which sizes between them can be run.

    Raises
    ------
    UsageError
        If a device has memory of its own, in which each shape would have its own weights.
    ArtifactError
        If they are not of one model.
    """
    if len(builds) == 1 and batch is None:
        return builds[0]
    own_memory = [d.name for d in builds[0].manifest.devices if kind_of(d.name).own_memory]
    if own_memory:
        raise UsageError(
            f"an artifact for {own_memory[0]} holds one shape: give --shape numbers only, and "
            "compile once for each shape"
        )
    pool = _Pool()
    libraries: dict[bytes, str] = {}
    manifests = []
    for build in builds:
        manifest = _renamed(build.manifest, pool.add(build))
        manifests.append(_with_libraries(manifest, build, libraries))
    chunks: dict[str, Chunks] = {name: [content] for content, name in libraries.items()}
    for entry, names in ((PARAMS, pool.weights), (SOURCES, pool.sources)):
        if names:
            chunks[entry] = safetensors({name: pool.arrays[name] for name in names})
    entries = {name: sha256_of(data) for name, data in chunks.items()}
    others = tuple(f"manifest{number}.json" for number in range(1, len(builds)))
    manifests = [replace(manifest, entries=entries) for manifest in manifests]
    texts: dict[str, Chunks] = {
        name: [manifest.to_json()] for name, manifest in zip(others, manifests[1:], strict=True)
    }
    entries = {**entries, **{name: sha256_of(data) for name, data in texts.items()}}
    manifests[0] = replace(manifests[0], shapes=Shapes(others, batch), entries=entries)
    check_shapes(manifests)
    contents = {name: content_of(data) for name, data in {**texts, **chunks}.items()}
    return Build(
        manifests[0],
        contents,
        {name: pool.arrays[name] for name in pool.weights},
        {name: pool.arrays[name] for name in pool.sources},
    )


class _Pool:
    """Weights of all shapes: one name is one array, and equal arrays have one name.

    `weights` are those that kernels read, `sources` those from which others are prepared.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self.weights: dict[str, None] = {}
        self.sources: dict[str, None] = {}
        self._names: dict[object, list[str]] = {}
        self._taken: set[str] = set()

    def add(self, build: Build) -> dict[str, str]:
        """Add the weights of one shape; return the names of all that it reads or prepares."""
        others = {b.name for b in build.manifest.buffers if b.space != "param"}
        names: dict[str, str] = {}
        for name, array in {**build.weights, **build.sources}.items():
            names[name] = self._name(name, _key(array), {*others, *names.values()})
            self.arrays.setdefault(names[name], array)
        for weight in build.manifest.prepared:
            key = "prepared", weight.kernel, names[weight.source]
            names[weight.name] = self._name(weight.name, key, {*others, *names.values()})
        self.weights |= dict.fromkeys(names[name] for name in build.weights)
        self.sources |= dict.fromkeys(names[name] for name in build.sources)
        return names

    def _name(self, name: str, key: object, used: set[str]) -> str:
        """Return the name of an equal weight of another shape, or else a new one like `name`."""
        equal = self._names.setdefault(key, [])
        free = [other for other in equal if other not in used]
        if free:
            return name if name in free else free[0]
        number, new = 1, name
        while new in self._taken or new in used:
            number, new = number + 1, f"{name}.{number}"  # no identifier has a dot
        self._taken.add(new)
        equal.append(new)
        return new


def _key(array: np.ndarray[Any, Any]) -> object:
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return array.shape, array.dtype.name, hashlib.sha256(content).digest()


def _with_libraries(manifest: Manifest, build: Build, libraries: dict[bytes, str]) -> Manifest:
    """Let the devices name the entries of the whole artifact."""

    def entry(name: str | None) -> str | None:
        if name is None:
            return None
        content = b"".join(build.contents[name].chunks)
        return libraries.setdefault(content, f"kernels{len(libraries)}.so")

    devices = (replace(device, library=entry(device.library)) for device in manifest.devices)
    return replace(manifest, devices=tuple(devices))


def _renamed(manifest: Manifest, names: _Names) -> Manifest:
    """Call weights by other names."""
    return replace(
        manifest,
        buffers=tuple(
            replace(buffer, name=names.get(buffer.name, buffer.name)) for buffer in manifest.buffers
        ),
        programs=tuple(
            replace(
                program,
                instructions=tuple(_instruction(step, names) for step in program.instructions),
            )
            for program in manifest.programs
        ),
        outputs=tuple(
            replace(spec, buffer=names.get(spec.buffer, spec.buffer)) for spec in manifest.outputs
        ),
        prepared=tuple(
            replace(weight, name=names[weight.name], source=names[weight.source])
            for weight in manifest.prepared
        ),
        graph=None if manifest.graph is None else _graph(manifest.graph, names),
    )


def _instruction(step: Instruction, names: _Names) -> Instruction:
    match step:
        case Call():
            return replace(step, args=_all(step.args, names))
        case Copy():
            return replace(step, src=names.get(step.src, step.src))
        case _:
            return step


def _graph(graph: OperatorGraph, names: _Names) -> OperatorGraph:
    return replace(
        graph,
        operators=tuple(replace(op, inputs=_all(op.inputs, names)) for op in graph.operators),
        tensors=tuple(replace(t, name=names.get(t.name, t.name)) for t in graph.tensors),
        constants=_all(graph.constants, names),
        outputs=_all(graph.outputs, names),
    )


def _all(given: Iterable[str], names: _Names) -> tuple[str, ...]:
    return tuple(names.get(name, name) for name in given)
