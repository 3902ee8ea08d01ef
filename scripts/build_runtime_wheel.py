"""Build the wheel of the runtime alone, hios-tvm-runtime: what a deployment machine installs.

    python scripts/build_runtime_wheel.py -o dist/

It holds `hios_tvm.runtime`, what that imports, the command hios-run, the library of the checks,
which is compiled here, and TVM's two runtime libraries from the installed apache-tvm; TVM's
compiler (260 MB) stays behind. It needs no build backend: a wheel is a ZIP file with three lists.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from hios_tvm.errors import CompileError
from hios_tvm.runtime import checks_library
from hios_tvm.runtime.tvm_library import LIBRARIES
from hios_tvm.version import __version__

ROOT = Path(__file__).parents[1]
NAME = "hios-tvm-runtime"
MODULES = (
    *("__init__", "errors", "files", "hios_run", "version"),
    *("measuring/__init__", "measuring/artifact_costs", "measuring/latency"),
    *("verification/__init__", "verification/deviation", "verification/inputs"),
)
"""Modules outside of the packages that are there whole."""

EXTRAS = {
    "bfloat16": ("ml_dtypes",),
    "fleet": ("fsspec", "kserve", "ray", "uvloop"),
    "serve": ("kserve", "uvloop"),
    "sign": ("cryptography",),
}
"""What only some need: types that NumPy lacks, fleets, `hios-run serve`, and signatures."""

_DATE = (1980, 1, 1, 0, 0, 0)  # equal contents make equal wheels


def build_wheel(folder: Path) -> Path:
    """Write the wheel for the platform of the installed apache-tvm; return its path.

    Raises
    ------
    CompileError
        If there is no C++ compiler, or its library does not run on all systems that TVM's run on.
    """
    tags = re.findall(r"^Tag: (.+)$", _tvm_file(".dist-info/WHEEL").read_text(), flags=re.MULTILINE)
    platforms = ".".join(tag.split("-")[2] for tag in tags)
    stem = f"{NAME.replace('-', '_')}-{__version__}"
    files = {**dict(_modules()), **dict(_libraries())}
    info = f"{stem}.dist-info"
    files[f"{info}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    files[f"{info}/licenses/LICENSE.apache-tvm"] = _tvm_file(
        ".dist-info/licenses/LICENSE"
    ).read_bytes()
    files[f"{info}/METADATA"] = _metadata().encode()
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nhios-run = hios_tvm.hios_run:main\n"
    lines = ["Wheel-Version: 1.0", "Generator: hios-tvm", "Root-Is-Purelib: false"]
    lines += [f"Tag: py3-none-{platform}" for platform in platforms.split(".")]
    files[f"{info}/WHEEL"] = "\n".join([*lines, ""]).encode()
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD").encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-py3-none-{platforms}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    return path


def _modules() -> Iterator[tuple[str, bytes]]:
    """Yield the Python modules, by their names in the wheel."""
    for module in MODULES:
        name = f"hios_tvm/{module}.py"
        yield name, (ROOT / name).read_bytes()
    yield "hios_tvm/py.typed", b""
    folders = {"runtime": ROOT / "runtime"}
    folders |= {name: ROOT / "hios_tvm" / name for name in ("schema", "serving")}
    for package, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            yield f"hios_tvm/{package}/{path.relative_to(folder)}", path.read_bytes()


def _libraries() -> Iterator[tuple[str, bytes]]:
    """Yield the library of the checks, and TVM's runtime libraries with their version."""
    folder = "hios_tvm/runtime/lib"
    libraries = [_tvm_file(f"/lib/{name}").read_bytes() for name in LIBRARIES]
    checks = checks_library.kept_checks()
    for name in ("GLIBC", "GLIBCXX", "CXXABI"):
        needed = newest_version(name, checks)
        if needed > max(newest_version(name, library) for library in libraries):
            raise CompileError(
                f"{checks_library.NAME} needs {name} {'.'.join(map(str, needed))}, which systems "
                "lack that TVM runs on: name another compiler in the environment variable CXX"
            )
    yield f"{folder}/{checks_library.NAME}", checks
    for name, library in zip(LIBRARIES, libraries, strict=True):
        yield f"{folder}/{name}", library
    yield f"{folder}/VERSION", f"{metadata.version('apache-tvm')}\n".encode()


def newest_version(name: str, library: bytes) -> tuple[int, ...]:
    """Return the newest version of a system's library that `library` asks for.

    >>> newest_version("GLIBC", b"\\0GLIBC_2.2.5\\0GLIBC_2.14\\0GLIBCXX_3.4\\0")
    (2, 14)
    """
    found = re.findall(rb"\0%s_([0-9.]+)(?=\0)" % name.encode(), library)
    return max((tuple(map(int, text.split(b"."))) for text in found), default=())


def _tvm_file(end: str) -> Path:
    """Return the path of a file of the installed apache-tvm, from how its path ends."""
    files = metadata.files("apache-tvm") or ()
    (found,) = (file for file in files if str(file).endswith(end))
    return Path(str(found.locate()))


def _metadata() -> str:
    """Return the core metadata; requirements are those of pyproject.toml."""
    import tomllib  # of Python 3.11

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [item for items in project["optional-dependencies"].values() for item in items]
    known = {
        re.split(r"[^\w-]", requirement)[0]: requirement
        for requirement in (*project["dependencies"], *optional)
    }
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {NAME}",
        f"Version: {__version__}",
        "Summary: Runs artifacts of hios-tvm, without the compiler",
        f"License-Expression: {project['license']}",
        "License-File: LICENSE",
        "License-File: LICENSE.apache-tvm",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {known[name]}" for name in ("numpy", "apache-tvm-ffi")),
    ]
    for extra, names in EXTRAS.items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f"Requires-Dist: {known[name]}; extra == '{extra}'" for name in names]
    return "\n".join([*lines, ""])


def _record(files: dict[str, bytes], own_name: str) -> str:
    """Return the list of all files with hashes and sizes; that of the list itself has none."""
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{own_name},,\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("dist"), help="folder")
    print(build_wheel(parser.parse_args().output))


if __name__ == "__main__":
    main()
