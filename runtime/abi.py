"""Opcodes and structs that the native executor reads: program.h, cuda.h, DLPack and TVM FFI.

`tests/runtime/test_abi.py` compares them with those headers.
"""

import ctypes
from enum import IntEnum

ABI_VERSION = 9
"""Of everything here; a kernel library with another `kAbiVersion` is refused."""

DLTENSOR_POINTER = 7
"""Type index of an `FFIAny` that points to a `DLTensor` (kTVMFFIDLTensorPtr)."""


LEFT = 0xFFFFFFFF
"""`Worker.next` outside of runs."""

NO_CORE = -1
"""`Worker.core` of workers that only their own threads execute."""

ANY_CORE = -2
"""`Worker.core` of a leader that feeds a GPU."""


class Opcode(IntEnum):
    """`Opcode` of program.h; those from LAUNCH on are for a CUDA stream."""

    CALL = 0
    COPY = 1
    SIGNAL = 2
    WAIT = 3
    ASSIST = 4
    DISMISS = 5
    LAUNCH = 6
    ENQUEUE_COPY = 7
    RECORD = 8
    AWAIT_RECORDED = 9
    SIGNAL_FROM_STREAM = 10
    SYNCHRONIZE = 11
    LAUNCH_GRAPH = 12


class DLTensor(ctypes.Structure):
    """DLPack's tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class FFIAny(ctypes.Structure):
    """`TVMFFIAny`: one argument of a kernel."""

    _fields_ = (
        ("type_index", ctypes.c_int32),
        ("zero_padding", ctypes.c_uint32),
        ("v_ptr", ctypes.c_void_p),
    )


class NativeInstruction(ctypes.Structure):
    """`Instruction` of program.h."""

    _fields_ = (
        ("opcode", ctypes.c_uint32),
        ("number", ctypes.c_uint32),
        ("target", ctypes.c_void_p),
        ("source", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("team", ctypes.c_void_p),
    )


class NativeWorker(ctypes.Structure):
    """`Worker` of program.h."""

    _fields_ = (
        ("program", ctypes.c_void_p),
        ("times", ctypes.c_void_p),
        ("driver", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("spin_ns", ctypes.c_int64),
        ("run", ctypes.c_uint64),
        ("seen", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("next", ctypes.c_uint32),
        ("failed", ctypes.c_uint32),
        ("status", ctypes.c_int32),
        ("core", ctypes.c_int32),
    )


class NativeDriver(ctypes.Structure):
    """`CudaDriver` of cuda.h: addresses of the driver's functions."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            "launch",
            "copy",
            "copy_peer",
            "record",
            "wait_event",
            "call_host",
            "launch_graph",
            "synchronize",
            "query",
            "push_context",
            "pop_context",
        )
    )


class NativeLaunch(ctypes.Structure):
    """`GpuLaunch` of cuda.h."""

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("params", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
    )


class NativeGpuCopy(ctypes.Structure):
    """`GpuCopy` of cuda.h."""

    _fields_ = (
        ("destination", ctypes.c_void_p),
        ("source", ctypes.c_void_p),
        ("destination_context", ctypes.c_void_p),
        ("source_context", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
    )


class NativeHostSignal(ctypes.Structure):
    """`HostSignal` of cuda.h; the executor fills it in."""

    _fields_ = (("event", ctypes.c_void_p), ("run", ctypes.c_uint64))
