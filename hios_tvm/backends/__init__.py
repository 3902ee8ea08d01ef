"""One backend for each kind of device: it chooses the loops of kernels and generates their code.

Another kind of device is a package beside `cpu` and `cuda` with an object of the form of
`hios_tvm.backends.interface.Backend`, an entry in `BACKENDS`, and the same for the runtime
(`hios_tvm.runtime.devices`).
"""

from collections.abc import Sequence

from tvm.target import Target

from hios_tvm.backends.cpu.backend import CpuBackend
from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.cuda.backend import CudaBackend
from hios_tvm.backends.interface import Backend
from hios_tvm.errors import UsageError
from hios_tvm.runtime.devices import HOST, kind_of
from hios_tvm.schema.precisions import Precision

__all__ = ["BACKENDS", "backend_of", "kind_named", "kind_of_target", "parse_targets"]

BACKENDS: dict[str, Backend] = {backend.kind: backend for backend in (CpuBackend(), CudaBackend())}
"""The backend of each kind of device."""


def backend_of(device: str) -> Backend:
    """Return the backend of the device called `device`."""
    return BACKENDS[kind_of(device).kind]


def kind_of_target(target: Target) -> str:
    """Return the kind of devices that code for `target` runs on.

    Raises
    ------
    UsageError
        If it has no backend.
    """
    for kind, backend in BACKENDS.items():
        if backend.target_kind == target.kind.name:
            return kind
    raise UsageError(f"no backend generates code for targets of kind {target.kind.name!r}")


def kind_named(word: str) -> str:
    """Return the kind of devices that `word`, of the option ``--target``, names a target of."""
    return next(kind for kind in reversed(BACKENDS) if BACKENDS[kind].names_target(word.strip()))


def parse_targets(
    text: str, devices: Sequence[str], precision: Precision = "fp32"
) -> dict[str, Target]:
    """Read the target of each kind of device that `devices` has.

    Parameters
    ----------
    text : str
        A CPU (``host``, ``portable``, ``znver4``, ...), the architecture of a GPU (``sm_90``), or
        both with a comma between them. What is not named is this machine's.
    precision : str
        What the factors of convolutions and products are rounded to, on the kinds of devices that
        have it; others multiply in ``fp32``.

    Returns
    -------
    dict
        From kinds of devices to targets. The host of a GPU's target is the CPU that is named.

    Raises
    ------
    UsageError
        If a name is unknown, of a kind that no device has, or one of two of a kind; if there is
        no GPU here and none is named; or if no device has the precision.
    """
    named: dict[str, str] = {}
    for word in (word.strip() for word in text.split(",")):
        kind = kind_named(word)
        if kind in named:
            raise UsageError(f"target {text!r} names two targets for devices of kind {kind!r}")
        named[kind] = word
    kinds = {kind_of(device).kind for device in devices}
    if unused := named.keys() - kinds - {HOST}:
        raise UsageError(
            f"target {text!r} is for {', '.join(sorted(unused))}, but the devices are {[*devices]}"
        )
    having = [kind for kind, backend in BACKENDS.items() if precision in backend.precisions]
    if not kinds & set(having):
        raise UsageError(
            f"{precision} is a precision of {' and '.join(having)} devices, but the devices are "
            f"{[*devices]}"
        )

    def target(kind: str, host: Target) -> Target:
        own = precision if kind in having and kind in kinds else "fp32"
        return BACKENDS[kind].target(named.get(kind), host, own)

    host = target(HOST, host_target())
    return {
        kind: host if kind == HOST else target(kind, host) for kind in BACKENDS if kind in kinds
    }
