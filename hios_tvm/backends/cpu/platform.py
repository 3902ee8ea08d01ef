"""The CPU devices of this machine as a platform: links and independence, measured once."""

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
from hios_tvm.runtime.devices.cpu.bench import KernelArg, KernelCall
from hios_tvm.runtime.devices.cpu.cores import require_cores
from hios_tvm.runtime.devices.cpu.measure import measure_together
from hios_tvm.runtime.machine import device_fingerprint
from hios_tvm.schema.costs import Measurement
from hios_tvm.schema.device_names import cpu_model_name, disjoint_cores
from hios_tvm.schema.platform import Device, Link, Platform


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
    UsageError
        If a core belongs to two devices.
    DeviceError
        If a name is no CPU device, or names a core that this process may not use.
    """
    platform = Platform(
        tuple(
            Device(name, model=cpu_model_name(name), streams=len(cores))
            for name, cores in disjoint_cores(names).items()
        )
    )
    if measured is not None:
        return replace(
            platform, default_link=measured.default_link, independence=measured.independence
        )
    cores = [require_cores(name) for name in names]
    if len(names) == 1:
        return platform
    where = f"{device_fingerprint()} {','.join(names)}"
    keys = [f"{what} {where}" for what in ("link latency", "link ms/GB", "independence")]
    known = {} if cache is None else cache.get(keys)
    if len(known) < len(keys):
        progress("measure devices", 0, 2)
        probe = _probe(target)
        progress("measure devices", 1, 2)
        measured_link, independence = measure_together(*probe, cores)
        values = (measured_link.latency_ms, 1000.0 / measured_link.bandwidth_gb_s, independence)
        known = {
            key: Measurement(value, source="measured")
            for key, value in zip(keys, values, strict=True)
        }
        if cache is not None:
            cache.put(known)
        progress("measure devices", 2, 2)
    latency_ms, ms_per_gb, independence = (known[key].ms for key in keys)
    link = Link(latency_ms=latency_ms, bandwidth_gb_s=1000.0 / ms_per_gb)
    return replace(platform, default_link=link, independence=independence)


@cache
def _probe(target: Target) -> tuple[bytes, KernelCall]:
    """Compile a dense convolution that keeps a core's vector units busy."""
    from hios_tvm.backends.network import lower  # which needs the table of backends

    images = relax.Var("images", relax.TensorType((1, 64, 56, 56), "float32"))
    weight = relax.const(np.full((64, 64, 3, 3), 0.01, dtype=np.float32))
    builder = relax.BlockBuilder()
    with builder.function("main", [images], {"input_names": ["x"], "output_names": ["y"]}):
        with builder.dataflow():
            output = builder.emit_output(relax.op.nn.conv2d(images, weight, padding=1))
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
