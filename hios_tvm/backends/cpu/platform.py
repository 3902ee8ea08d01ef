"""The CPU devices of this machine as a platform: links and independence, measured once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import tvm
from tvm import relax
from tvm.target import Target

from hios_tvm.backends.cache import CostCache
from hios_tvm.backends.cpu.codegen import compile_kernels
from hios_tvm.backends.cpu.library import link_library
from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.passes.canonicalize_operators import CanonicalizeOperators
from hios_tvm.passes.extract_operator_graph import extract_operator_graph
from hios_tvm.runtime.devices.cpu.cores import require_cores
from hios_tvm.runtime.devices.cpu.measure import Together, cpu_platform_of, measure_together
from hios_tvm.runtime.devices.kernel_calls import KernelArg, KernelCall
from hios_tvm.runtime.machine import device_fingerprint
from hios_tvm.schema.costs import Measurement
from hios_tvm.schema.platform import Link, Platform


def cpu_platform(
    names: Sequence[str],
    target: Target,
    *,
    measured: Platform | None = None,
    cache: CostCache | None = None,
    progress: PhaseProgress = lambda phase, done, total: None,
) -> Platform:
    """Return the CPU devices called `names` as a platform.

    Parameters
    ----------
    target : Target
        What the dense kernel is compiled for that measures independence.
    measured : Platform, optional
        What a cost table was measured on: its links and independence are used, nothing is
        measured, and the devices need not exist here.
    cache : CostCache, optional
        Where measurements are looked up first, and kept.

    Raises
    ------
    DeviceError
        If a name is no CPU device, or names a core that this process may not use.
    """
    platform = cpu_platform_of(names)
    if measured is not None:
        return replace(
            platform,
            links=measured.links,
            default_link=measured.default_link,
            independence=measured.independence,
        )
    for name in names:
        require_cores(name)
    if len(names) == 1:
        return platform
    where = f"{device_fingerprint()} {','.join(names)}"
    keys = [f"{what} {where}" for what in _MEASURED]
    known = {} if cache is None else cache.get(keys)
    if len(known) < len(keys):
        progress("measure devices", 0, 2)
        probe = _probe(target)
        progress("measure devices", 1, 2)
        numbers = _numbers(measure_together(*probe, platform.devices))
        known = {
            key: Measurement(value, source="measured")
            for key, value in zip(keys, numbers, strict=True)
        }
        if cache is not None:
            cache.put(known)
        progress("measure devices", 2, 2)
    return _from_numbers([known[key].ms for key in keys]).on(platform)


_MEASURED = ("reference ms", "reference ms/GB", "copy ms", "copy ms/GB", "independence")


def _numbers(together: Together) -> list[float]:
    """Return what is kept of `together`, in the order of `_MEASURED`."""
    links = (together.reference, together.copy)
    numbers = [n for link in links for n in (link.latency_ms, 1000.0 / link.bandwidth_gb_s)]
    return [*numbers, together.independence]


def _from_numbers(numbers: Sequence[float]) -> Together:
    *links, independence = numbers
    reference, copy = (
        Link(latency_ms, 1000.0 / ms_per_gb if ms_per_gb else math.inf)
        for latency_ms, ms_per_gb in (links[:2], links[2:])
    )
    return Together(reference, copy, independence)


@cache
def _probe(target: Target) -> tuple[bytes, KernelCall]:
    """Compile a dense convolution that keeps a core's vector units busy."""
    from hios_tvm.backends.network import lower  # which needs the table of backends

    images = relax.Var("images", relax.TensorType((1, 64, 56, 56), "float32"))
    weight = relax.const(np.full((64, 64, 1, 1), 0.01, dtype=np.float32))
    builder = relax.BlockBuilder()
    with builder.function("main", [images], {"input_names": ["x"], "output_names": ["y"]}):
        with builder.dataflow():
            output = builder.emit_output(relax.op.nn.conv2d(images, weight))
        builder.emit_func_output(output)
    lowered = lower(builder.get(), target)
    module = tvm.transform.Sequential([CanonicalizeOperators()])(lowered)
    graph = extract_operator_graph(module, "probe")
    work = max(graph.operators, key=lambda op: any(n in graph.constants for n in op.inputs))
    tensors = [graph.tensor[name] for name in (*work.inputs, *work.outputs)]
    args = [KernelArg(tensor.shape, tensor.dtype) for tensor in tensors[:-1]]
    args.append(KernelArg(tensors[-1].shape, tensors[-1].dtype, "output"))
    objects = compile_kernels(module, target)
    return link_library(objects.values(), target), KernelCall(work.kernel, tuple(args))
