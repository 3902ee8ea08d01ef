"""Damaged artifacts in the runtime without Python, under sanitizers, and in that of Python."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from archives import archive_of, entries_of, with_entry
from build_c_runtime import HEADER, compile_c_runtime
from c_runtime import ERRORS
from fuzz_targets import TARGETS
from mutations import damage, edit_json

from hios_tvm.errors import HiosError
from hios_tvm.runtime.read_artifact import open_artifact

ROOT = Path(__file__).parents[2]

# Those that are left out take minutes to compile, and find what AddressSanitizer finds, too.
SANITIZERS = (
    *("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "-fno-sanitize=vptr,null,alignment,object-size",
)
_BATCH = 50  # files for one process


class DifferentVerdictError(Exception):
    """The two runtimes do not agree, or a sanitizer complains."""


def compare_runtimes(seconds: float, seed: int, folder: Path) -> str:
    """Damage artifacts until the time is over; return what was found.

    Raises
    ------
    DifferentVerdictError
        With the path of a file in `folder` that shows it.
    """
    program = _build(folder)
    rng, verdicts = random.Random(seed), Counter[int]()
    archives = TARGETS["archive"].seeds()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        paths = [folder / f"try-{i}.hios" for i in range(_BATCH)]
        for path in paths:
            path.write_bytes(_damaged(rng.choice(archives), rng))
        done = subprocess.run([program, *paths], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DifferentVerdictError(f"one of {folder}/try-*.hios: {done.stderr}")
        for path, line in zip(paths, done.stdout.splitlines(), strict=True):
            code = _code(lambda path=path: open_artifact(path))
            if code != int(line):
                raise DifferentVerdictError(f"{path}: {line} in C, {code} in Python")
            verdicts[code] += 1
    return f"{verdicts.total()} artifacts, {verdicts[0]} accepted, all by both"


def _build(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    main, program = folder / "verdicts.o", folder / "verdicts"
    source = ROOT / "tests" / "runtime" / "verdicts.c"
    subprocess.run(["gcc", "-c", f"-I{HEADER.parent}", source, "-o", main], check=True)
    compile_c_runtime([*SANITIZERS, "-x", "none", str(main)], program)
    return program


def _damaged(archive: bytes, rng: random.Random) -> bytes:
    """Damage the bytes of an archive, or an entry whose hash is then that of the new bytes."""
    entries = entries_of(archive)
    name = rng.choice([name for name in entries if not name.endswith(".so")])
    match rng.randrange(3):
        case 0:
            return damage(archive, rng)
        case 1:
            return archive_of(with_entry(entries, name, damage(entries[name], rng)))
        case _:
            name = rng.choice([name for name in entries if name.endswith(".json")])
            return archive_of(with_entry(entries, name, edit_json(entries[name], rng)))


def _code(read: Callable[[], object]) -> int:
    """Return the `hios_status` for what Python says."""
    try:
        read()
    except HiosError as error:
        return 1 + ERRORS.index(type(error))
    return 0
