"""Code that this program compiles: calls of compilers, and what is kept of their results."""

import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from hios_tvm.errors import CompileError, UsageError
from hios_tvm.files import atomic_write, private_folder

_DIGEST = hashlib.sha256().digest_size  # the hash of the name and the code, before the code
_LOG = logging.getLogger("hios_tvm")


def default_cache_dir() -> Path:
    """Folder of this program's caches: ``XDG_CACHE_HOME``, or ``.cache`` of the user's home."""
    caches = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    return Path(os.path.expanduser(caches), "hios-tvm")


def run_compiler(command: list[str | Path], folder: Path) -> None:
    """Run a C++ compiler, whose own temporary files go to `folder`.

    Raises
    ------
    CompileError
        If there is no such compiler, or it fails.
    """
    name = str(command[0])
    if shutil.which(name) is None:
        raise CompileError(
            f"the C++ compiler {name!r} was not found: install it (Debian: apt-get install g++), "
            "or name another one in the environment variable CXX"
        )
    variables = {**os.environ, "TMPDIR": str(folder)}
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    except OSError as error:  # no more processes or descriptors
        raise CompileError(f"{name} cannot be started: {error}") from error
    if result.returncode != 0:
        raise CompileError(f"{name} failed: {result.stderr.strip()[-2000:]}")


def kept_code(folder: Path | None, name: str, make: Callable[[], bytes]) -> bytes:
    """Return the code that `folder` keeps under `name`; make it where it is missing or damaged.

    Parameters
    ----------
    folder : Path or None
        Its files are code, so that it is the user's alone; with None, nothing is kept.
    name : str
        Of the file. It must say all that the code depends on.
    make : callable
        Compiles the code.
    """
    if folder is None or not _is_usable(folder):
        return make()
    path = folder / name
    try:
        digest, code = (content := path.read_bytes())[:_DIGEST], content[_DIGEST:]
        if digest == _digest(name, code):
            return code
    except OSError:  # it is not there yet
        pass
    code = make()
    try:
        with atomic_write(path) as file:
            file.writelines([_digest(name, code), code])
    except (OSError, UsageError) as error:
        warn_once(f"compiled code is not kept: {error}")
    return code


@cache
def _is_usable(folder: Path) -> bool:
    try:
        private_folder(folder)
    except OSError as error:
        warn_once(f"compiled code is neither read nor kept: {error}")
        return False
    return True


@cache
def warn_once(message: str) -> None:
    """Say something about a folder of caches, once in a process."""
    _LOG.warning("%s; choose another folder with --cost-cache or XDG_CACHE_HOME", message)


def _digest(name: str, code: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + code).digest()
