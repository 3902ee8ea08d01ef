"""Fuzz what reads foreign bytes, and the executor under sanitizers.

Targets of bytes are fuzzed with atheris (pip install 'hios-tvm[fuzz]'), guided by coverage, and by
plain random damage where it is not installed. Targets whose names begin with "executor" run its
stress program (tests/runtime/stress.cc) under a sanitizer of g++ instead. The target "c-runtime"
gives damaged artifacts to the runtime without Python, under sanitizers, and to that of Python.

    python scripts/fuzz.py --target onnx --seconds 3600
    python scripts/fuzz.py --seconds 60            # all targets, one after another

What fails is kept in --folder; copy it to tests/robustness/inputs/TARGET once it is mended.
"""

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
sys.path.insert(0, str(TESTS / "runtime"))
sys.path.insert(0, str(TESTS / "robustness"))

try:
    import atheris
except ImportError:
    atheris = None

watched = contextlib.nullcontext() if atheris is None else atheris.instrument_imports(["hios_tvm"])
with watched:  # counts the branches of what is imported here
    from compare_runtimes import compare_runtimes
    from fuzz_targets import TARGETS, Target
    from stress import SANITIZERS, build_stress, run_stress

EXECUTORS = {f"executor-{name}": name for name in SANITIZERS}
C_RUNTIME = "c-runtime"
NAMES = [*TARGETS, *EXECUTORS, C_RUNTIME]
SLOW_S = 120
MEMORY_MIB = 4096


@click.command(help=__doc__)
@click.option("--target", type=click.Choice(NAMES), help="One of them.  [default: all]")
@click.option("--seconds", default=60, show_default=True, help="Time for each target.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=ROOT / "build" / "fuzz",
    help="Where interesting inputs, and those that fail, are kept.  [default: build/fuzz]",
)
def main(target: str | None, seconds: int, seed: int, folder: Path) -> None:
    """Run the script; exit with 1 where something failed."""
    if target is None:
        options = ["--seconds", str(seconds), "--seed", str(seed), "--folder", str(folder)]
        codes = [
            subprocess.run([sys.executable, __file__, "--target", name, *options]).returncode
            for name in NAMES
        ]
        sys.exit(any(codes))
    if target in EXECUTORS:
        _stress(EXECUTORS[target], seconds, seed, folder)
    elif target == C_RUNTIME:
        click.echo(f"{target}: {compare_runtimes(seconds, seed, folder / target)}")
    elif atheris is None:
        _damage(target, seconds, seed, folder)
    else:
        _guided(target, seconds, seed, folder)


def _stress(sanitizer: str, seconds: int, seed: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    program = build_stress(sanitizer, folder)
    result = run_stress(program, seconds, seed)
    click.echo(f"executor-{sanitizer}: {result.stdout.strip()}\n{result.stderr}".strip())
    sys.exit(result.returncode != 0)


def _damage(name: str, seconds: int, seed: int, folder: Path) -> None:
    """Damage the target's inputs at random until the time is over."""
    target, rng = TARGETS[name], random.Random(seed)
    inputs = target.inputs(name)
    end, tries, accepted = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        content = target.mutate(rng.choice(inputs), rng)
        try:
            accepted += target.accepts(content)
        except Exception:
            path = folder / name / f"failed-{tries}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            click.echo(f"{name}: failed after {tries} inputs; the input is {path}")
            raise
        tries += 1
    click.echo(f"{name}: {tries} inputs, {accepted} accepted, no failure")


def _guided(name: str, seconds: int, seed: int, folder: Path) -> None:
    """Let atheris search; it ends this process."""
    target = TARGETS[name]
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(target.inputs(name)):
        (corpus / f"seed-{i}").write_bytes(content)
    found = folder / f"{name}-"
    options = [f"-max_total_time={seconds}", f"-seed={seed + 1}", f"-timeout={SLOW_S}"]
    options += [f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={found}", "-print_final_stats=1"]
    mutator = _mutator(target)
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.accepts, custom_mutator=mutator)
    atheris.Fuzz()


def _mutator(target: Target) -> Callable[[bytes, int, int], bytes]:
    """Mix the target's own damage, which knows JSON, with that of libFuzzer."""

    def mutate(content: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.randrange(2):
            return bytes(atheris.Mutate(content, longest))
        return target.mutate(content, rng)[:longest]

    return mutate


if __name__ == "__main__":
    main()
