"""Weights that kernels compute from stored ones when an artifact is loaded.

What a kernel reads fast can take more bytes than what it was made of: artifacts store the latter.
"""

import hashlib
from collections.abc import Mapping
from contextlib import closing

import numpy as np

from hios_tvm.errors import ArtifactError, ExecutionError, MemoryLimitError
from hios_tvm.runtime.artifact_format import SOURCES
from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks
from hios_tvm.runtime.devices.cpu.cores import require_cores
from hios_tvm.runtime.devices.interface import LoadRequest
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.memory import TensorTable, address_of, align_up
from hios_tvm.runtime.memory_limit import check_memory
from hios_tvm.runtime.sealed_memory import SealedMemory
from hios_tvm.runtime.shared_memory import SharedMap
from hios_tvm.runtime.weights import StoredTensor, Weights, known_weights, shared_weights
from hios_tvm.schema.manifest import ALIGNMENT, Manifest
from hios_tvm.schema.program import Call


def prepare_weights(request: LoadRequest, sources: Weights) -> Weights:
    """Compute the prepared weights of an artifact on all of its cores, and place their buffers.

    Sessions whose code, sources and shapes are equal share them.

    Raises
    ------
    ArtifactError
        If a kernel is missing, or does not take its tensors.
    MemoryLimitError
        If this process may not take the memory.
    """
    manifest = request.artifact.manifest
    tensors = _layout(manifest)
    with_code = (d.name for d in manifest.devices if d.kind == "cpu" and d.library is not None)
    device = next(with_code)  # there is one, as `check_manifest` has proven
    made_of = manifest.entries[SOURCES], manifest.entries[manifest.device[device].library or ""]
    key = (*made_of, manifest.prepared, tuple(tensors.values()))
    prepared = known_weights(key)
    if prepared is None:
        name = f"prepared-{hashlib.sha256(repr(key).encode()).hexdigest()}"
        prepared = shared_weights(_computed(request, device, sources, tensors, name), key)
    for name in tensors:
        request.tensors.place(name, prepared.address(name))
    return prepared


def _layout(manifest: Manifest) -> dict[str, StoredTensor]:
    """Return where each prepared weight lies in their memory."""
    tensors, end = {}, 0
    for weight in manifest.prepared:
        buffer = manifest.buffer[weight.name]
        tensors[weight.name] = StoredTensor(buffer.shape, buffer.dtype, end, buffer.nbytes)
        end += align_up(buffer.nbytes)
    return tensors


def _computed(
    request: LoadRequest,
    device: str,
    sources: Weights,
    tensors: dict[str, StoredTensor],
    name: str,
) -> Weights:
    manifest = request.artifact.manifest
    nbytes = max(ALIGNMENT, sum(align_up(tensor.nbytes) for tensor in tensors.values()))
    check_memory(nbytes, f"the weights of {manifest.model!r}")
    try:
        with SealedMemory("hios-weights") as memory:
            results = memory.writable(nbytes)
            address = address_of(np.frombuffer(results, np.uint8))
            _run(request, device, sources, tensors, address)
            results.close()  # not after an error, which may hold the array: it ends with that
            memory.seal()
            return Weights(SharedMap(memory, name), tensors)
    except OSError as error:
        raise MemoryLimitError(
            f"no memory for the weights of {manifest.model!r}: {error}"
        ) from error


def _run(
    request: LoadRequest,
    device: str,
    sources: Weights,
    tensors: Mapping[str, StoredTensor],
    address: int,
) -> None:
    """Call the kernels on all cores of the session, with results from `address` on."""
    manifest = request.artifact.manifest
    types: dict[str, tuple[tuple[int, ...], str]] = {}
    places: dict[str, int] = {}
    calls = []
    for i, weight in enumerate(manifest.prepared):
        source, result = sources.tensors[weight.source], tensors[weight.name]
        names = f"source {i}", f"weight {i}"
        types |= zip(names, ((t.shape, t.dtype) for t in (source, result)), strict=True)
        places |= zip(names, (sources.address(weight.source), address + result.start), strict=True)
        calls.append(Call(weight.name, weight.kernel, names))
    table = TensorTable(types)
    for name, place in places.items():
        table.place(name, place)
    cpus = (
        request.names[d.name] for d in manifest.devices if d.kind == manifest.device[device].kind
    )
    cores = tuple(dict.fromkeys(core for name in cpus for core in require_cores(name)))
    program = CpuProgram("the host", cores, calls, request.library(device))
    with closing(Executor(core_tasks([program]), table)) as executor:
        try:
            executor.run()
        except ExecutionError as error:
            raise ArtifactError(f"the weights cannot be prepared: {error}") from error
