"""The runtime for programs without Python (runtime/c_api), as tests call it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hios_tvm.errors import (
    ArtifactError,
    DeviceError,
    ExecutionError,
    HiosError,
    InputError,
    MemoryLimitError,
    RunTimeoutError,
    SessionClosedError,
    UsageError,
)

ERRORS: tuple[type[HiosError], ...] = (
    *(UsageError, ArtifactError, InputError, MemoryLimitError, DeviceError, ExecutionError),
    *(RunTimeoutError, SessionClosedError),
)
"""Python's errors in the order of `hios_status`, from 1 on."""


class Tensor(ctypes.Structure):
    """`hios_tensor`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("data", ctypes.c_void_p),
    )


class RunOptions(ctypes.Structure):
    """`hios_run_options`."""

    _fields_ = (("timeout_s", ctypes.c_double), ("trace", ctypes.c_void_p))


class SessionOptions(ctypes.Structure):
    """`hios_session_options`."""

    _fields_ = (
        ("devices", ctypes.c_char_p),
        ("spin_us", ctypes.c_double),
        ("exclusive", ctypes.c_int32),
    )


class CRuntime:
    """The library at `path`; failures are the errors that Python raises."""

    def __init__(self, path: Path) -> None:
        self._dll = ctypes.CDLL(str(path))
        self._dll.hios_error.restype = ctypes.c_char_p
        for name in ("hios_artifact_close", "hios_session_close"):
            getattr(self._dll, name).argtypes = [ctypes.c_void_p]

    def open(self, path: Path, key: Path | None = None) -> int:
        """Open and verify an artifact; `close` ends it."""
        artifact = ctypes.c_void_p()
        encoded = None if key is None else str(key).encode()
        self._check(
            self._dll.hios_artifact_open(str(path).encode(), encoded, ctypes.byref(artifact))
        )
        assert artifact.value is not None
        return artifact.value

    def close(self, artifact: int) -> None:
        self._dll.hios_artifact_close(artifact)

    def verify(self, path: Path, key: Path | None = None) -> None:
        """Raise the error that opening an artifact leads to, if any."""
        self.close(self.open(path, key))

    def session(self, path: Path, devices: str | None = None) -> CSession:
        artifact, session = self.open(path), ctypes.c_void_p()
        options = SessionOptions(None if devices is None else devices.encode())
        try:
            self._check(
                self._dll.hios_session_open(
                    ctypes.c_void_p(artifact), ctypes.byref(options), ctypes.byref(session)
                )
            )
        finally:
            self.close(artifact)
        assert session.value is not None
        return CSession(self, session.value)

    def run(
        self, session: int, inputs: list[Tensor], outputs: list[Tensor], timeout_s: float
    ) -> None:
        given, wanted = (Tensor * len(inputs))(*inputs), (Tensor * len(outputs))(*outputs)
        options = RunOptions(timeout_s)
        code = self._dll.hios_session_run(
            *(ctypes.c_void_p(session), given, ctypes.c_size_t(len(inputs))),
            *(wanted, ctypes.c_size_t(len(outputs)), ctypes.byref(options)),
        )
        self._check(code)

    def close_session(self, session: int) -> None:
        self._dll.hios_session_close(session)

    def _check(self, code: int) -> None:
        if code != 0:
            raise ERRORS[code - 1](self._dll.hios_error().decode())


class CSession:
    """A session of the C runtime; `close` it."""

    def __init__(self, runtime: CRuntime, session: int) -> None:
        self._runtime = runtime
        self._session = session

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        *,
        timeout_s: float = 0,
    ) -> None:
        """Run the model once; results are written into the arrays of `outputs`."""
        given, wanted = (
            [tensor_of(name, array) for name, array in arrays.items()]
            for arrays in (inputs, outputs)
        )
        self._runtime.run(self._session, given, wanted, timeout_s)

    def close(self) -> None:
        self._runtime.close_session(self._session)


def tensor_of(name: str, array: np.ndarray) -> Tensor:
    """Return the contiguous `array` as C programs have it."""
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    data = array.__array_interface__["data"][0]
    return Tensor(name.encode(), array.dtype.name.encode(), array.ndim, shape, data)
