"""Serves artifacts over the network, on KServe's model server."""

from importlib.util import find_spec

from hios_tvm.errors import UsageError


def require_kserve() -> None:
    """Raise `UsageError` where KServe is not installed."""
    if find_spec("kserve") is None:
        raise UsageError("serving needs the package kserve; run: pip install 'hios-tvm[serve]'")
