"""Signatures of the CUDA driver API, as in NVIDIA's reference manual and cuda.h."""

from __future__ import annotations

import ctypes
import re
from typing import Any

_DECLARATIONS = """
cuInit(unsigned int Flags)
cuGetErrorString(CUresult error, const char** pStr)
cuDeviceGet(CUdevice* device, int ordinal)
cuDeviceGetCount(int* count)
cuDeviceGetAttribute(int* pi, CUdevice_attribute attrib, CUdevice dev)
cuDeviceCanAccessPeer(int* canAccessPeer, CUdevice dev, CUdevice peerDev)
cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev)
cuCtxSetCurrent(CUcontext ctx)
cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
cuMemAlloc_v2(CUdeviceptr* dptr, size_t bytesize)
cuMemFree_v2(CUdeviceptr dptr)
cuOccupancyMaxActiveBlocksPerMultiprocessor(int* numBlocks, CUfunction func, int blockSize, \
size_t dynamicSMemSize)
cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount)
cuMemHostRegister_v2(void* p, size_t bytesize, unsigned int Flags)
cuMemHostUnregister(void* p)
cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option* jitOptions, \
void** jitOptionsValues, unsigned int numJitOptions, CUlibraryOption* libraryOptions, \
void** libraryOptionValues, unsigned int numLibraryOptions)
cuLibraryUnload(CUlibrary library)
cuLibraryGetKernel(CUkernel* pKernel, CUlibrary library, const char* name)
cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev)
cuKernelGetFunction(CUfunction* pFunc, CUkernel kernel)
cuStreamCreate(CUstream* phStream, unsigned int Flags)
cuStreamDestroy_v2(CUstream hStream)
cuEventCreate(CUevent* phEvent, unsigned int Flags)
cuEventDestroy_v2(CUevent hEvent)
cuEventElapsedTime(float* pMilliseconds, CUevent hStart, CUevent hEnd)
cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
cuStreamEndCapture(CUstream hStream, CUgraph* phGraph)
cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph, unsigned long long flags)
cuGraphDestroy(CUgraph hGraph)
cuGraphExecDestroy(CUgraphExec hGraphExec)
cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ, \
unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, \
unsigned int sharedMemBytes, CUstream hStream, void** kernelParams, void** extra)
cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, \
CUcontext srcContext, size_t ByteCount, CUstream hStream)
cuEventRecord(CUevent hEvent, CUstream hStream)
cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void* userData)
cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream)
cuStreamSynchronize(CUstream hStream)
cuStreamQuery(CUstream hStream)
cuCtxPushCurrent_v2(CUcontext ctx)
cuCtxPopCurrent_v2(CUcontext* pctx)
cuDeviceGetDevResource(CUdevice device, CUdevResource* resource, CUdevResourceType type)
cuDevSmResourceSplitByCount(CUdevResource* result, unsigned int* nbGroups, \
const CUdevResource* input, CUdevResource* remaining, unsigned int flags, unsigned int minCount)
cuDevResourceGenerateDesc(CUdevResourceDesc* phDesc, CUdevResource* resources, \
unsigned int nbResources)
cuGreenCtxCreate(CUgreenCtx* phCtx, CUdevResourceDesc desc, CUdevice dev, unsigned int flags)
cuGreenCtxDestroy(CUgreenCtx hCtx)
cuGreenCtxStreamCreate(CUstream* phStream, CUgreenCtx greenCtx, unsigned int flags, int priority)
"""

_HANDLES = (
    "CUcontext CUdevResourceDesc CUevent CUfunction CUgraph CUgraphExec CUgreenCtx CUhostFn "
    "CUkernel CUlibrary CUstream"
)
_ENUMERATIONS = (
    "CUdevResourceType CUdevice_attribute CUfunction_attribute CUresult CUstreamCaptureMode"
)
_TYPES: dict[str, Any] = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned long long": ctypes.c_ulonglong,
    "size_t": ctypes.c_size_t,
    "CUdevice": ctypes.c_int,
    "CUdeviceptr": ctypes.c_ulonglong,
    "const char*": ctypes.c_char_p,
    **dict.fromkeys(_HANDLES.split(), ctypes.c_void_p),
    **dict.fromkeys(_ENUMERATIONS.split(), ctypes.c_int),
}


def _arguments(parameters: str) -> tuple[Any, ...]:
    types = [parameter.strip().rpartition(" ")[0] for parameter in parameters.split(",")]
    return tuple(
        _TYPES[name] if name in _TYPES or not name.endswith("*") else ctypes.c_void_p
        for name in types
    )


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    name: _arguments(parameters)
    for name, parameters in re.findall(r"^(\w+)\((.*)\)$", _DECLARATIONS, re.MULTILINE)
}
"""Argument types of each function; all return a CUresult."""
