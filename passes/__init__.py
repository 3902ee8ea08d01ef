"""TVM passes: IRModule in, IRModule (or an analysis result) out."""

import tvm_ffi

from hios_tvm.errors import CompileError, ScheduleError

# A Python error that leaves a pass crosses TVM's C++; unregistered it arrives as a RuntimeError.
# TVM has a ScheduleError of its own, which rules catch where a primitive does not apply.
for _error in (CompileError, ScheduleError):
    tvm_ffi.register_error(f"hios_tvm.{_error.__name__}", _error)
