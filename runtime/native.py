"""Kernel libraries, loaded from the bytes of an artifact."""

import ctypes
import hashlib
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import tvm_ffi
import tvm_ffi.libinfo

from hios_tvm.errors import ArtifactError
from hios_tvm.files import temporary_folder
from hios_tvm.runtime.abi import ABI_VERSION
from hios_tvm.runtime.sealed_memory import SealedMemory
from hios_tvm.runtime.tvm_library import load_tvm_libraries

_SYMBOL_PREFIX = "__tvm_ffi_"

_FUNCTIONS = {
    "hios_session_bytes": (ctypes.c_uint64, 2 * (ctypes.c_uint32,)),
    "hios_open": (None, (ctypes.c_void_p, *(3 * (ctypes.c_uint32,)))),
    "hios_work": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_void_p)),
    "hios_lead": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    "hios_start": (ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_int32)),
    "hios_run": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_void_p, *(2 * (ctypes.c_int64,)))),
    "hios_latest": (ctypes.c_uint64, (ctypes.c_void_p,)),
    "hios_join": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64)),
    "hios_abort": (None, (ctypes.c_void_p, ctypes.c_uint64)),
    "hios_stop": (None, (ctypes.c_void_p,)),
    "hios_team_bytes": (ctypes.c_uint64, ()),
    "hios_team_open": (None, (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int64)),
}


class Library:
    """A shared library of kernels with the executor, loaded from its bytes.

    It stays loaded until the last reference is gone. Equal bytes are loaded once in a process:
    use `load_library`.

    Raises
    ------
    ArtifactError
        If the bytes cannot be loaded, or hold another executor than this runtime's.
    """

    def __init__(self, content: bytes) -> None:
        load_tvm_libraries()
        try:
            with private_file(content) as path:
                # TVM's loader fills the kernels' context pointers; ours shares its handle.
                self._module = tvm_ffi.load_module(path, keep_module_alive=False)
                self.dll = ctypes.CDLL(path)
                self._unload_in_the_end()
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"a kernel library cannot be loaded: {error}") from error
        version = getattr(self.dll, "hios_abi_version", lambda: None)()
        if version != ABI_VERSION:
            raise ArtifactError(
                f"a kernel library has executor version {version}, this runtime works with "
                f"version {ABI_VERSION}; make the artifact again with 'hios-tvm compile'"
            )
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self.dll, name)
            function.restype, function.argtypes = result, arguments
        self._take_over_parallel_loops()

    def _unload_in_the_end(self) -> None:
        handle = ctypes.c_void_p(self.dll._handle)
        try:
            unload = weakref.finalize(self, _LIBC.dlclose, handle)
        except BaseException:  # there is no memory
            _LIBC.dlclose(handle)
            raise
        unload.atexit = False  # a thread may still be inside

    def kernel(self, name: str) -> int:
        """Return the address of the kernel called `name`; `ArtifactError` if there is none."""
        try:
            function = getattr(self.dll, _SYMBOL_PREFIX + name)
        except AttributeError:
            raise ArtifactError(f"the library has no kernel called {name!r}") from None
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        return address

    def _take_over_parallel_loops(self) -> None:
        """Let kernels launch parallel loops on the worker's team, not on TVM's thread pool."""
        try:
            launch = ctypes.c_void_p.in_dll(self.dll, "__TVMBackendParallelLaunch")
        except ValueError:
            return  # no kernel has a parallel loop
        launch.value = ctypes.cast(self.dll.hios_parallel_launch, ctypes.c_void_p).value


def load_library(content: bytes) -> Library:
    """Load a kernel library, or return it if this process has loaded equal bytes already."""
    key = hashlib.sha256(content).digest()
    with _LOADED_LOCK:
        library = _LOADED.get(key)
        if library is None:
            library = _LOADED[key] = Library(content)
        return library


def raised_message() -> str:
    """Take the error that a kernel has just raised in this thread, as ``kind: message``."""
    handle = ctypes.c_void_p()
    _FFI.TVMFFIErrorMoveFromRaised(ctypes.byref(handle))
    if not handle.value:
        return "no message"
    cell = _ErrorObject.from_address(handle.value)
    parts = [ctypes.string_at(part.data, part.size) for part in (cell.kind, cell.message)]
    _FFI.TVMFFIObjectDecRef(handle)
    return ": ".join(part.decode(errors="replace").strip() for part in parts)


class _ByteArray(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _ErrorObject(ctypes.Structure):
    _fields_ = (("header", ctypes.c_uint8 * 24), ("kind", _ByteArray), ("message", _ByteArray))


@contextmanager
def private_file(content: bytes) -> Iterator[str]:
    """Yield a path with `content` that nobody else can write or replace.

    The content is in sealed memory. TVM chooses its loader by the file's suffix, and the dynamic
    linker takes two libraries with one path for the same, hence a link with a new name.
    """
    with SealedMemory("hios-kernels") as memory:
        memory.write(content)
        memory.seal()
        with temporary_folder() as folder:
            link = folder / "kernels.so"
            link.symlink_to(f"/proc/self/fd/{memory.descriptor}")
            yield str(link)


_LIBC = ctypes.CDLL(None)
_FFI = ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi())
_FFI.TVMFFIErrorMoveFromRaised.restype = None
_LOADED: weakref.WeakValueDictionary[bytes, Library] = weakref.WeakValueDictionary()
_LOADED_LOCK = threading.Lock()
