"""TVM passes: IRModule in, IRModule (or an analysis result) out."""

from __future__ import annotations

import tvm_ffi

from hios_tvm.errors import CompileError, ScheduleError

# A Python error that leaves a pass crosses TVM's C++; unregistered it arrives as a RuntimeError.
for _error in (CompileError, ScheduleError):
    tvm_ffi.register_error(_error.__name__, _error)
