"""Let the n-th call of each function of the C library fail; print a table.

Loads and runs an artifact, compiles a network, or serves an artifact meanwhile: each failure
has to be one error, the next try has to succeed, and nothing may be left behind.

    python scripts/fail_calls.py --work compile
    python scripts/fail_calls.py --work compile --cache cold --function fork
    python scripts/fail_calls.py --work load --function malloc --step 50

With --step, only each call of that distance fails: allocations are many, since those of Python's
objects are among them.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from hios_tvm.cli.options import print_table

TESTS = Path(__file__).parents[1] / "tests"
PATHS = [str(TESTS / name) for name in ("frontends", "robustness", "runtime")]
sys.path[:0] = PATHS

from attacks_on_artifacts import write_artifact  # noqa: E402

FUNCTIONS = (
    *("open", "opendir", "read", "pread64", "write", "fsync", "memfd_create", "posix_fallocate64"),
    *(
        "mmap64",
        "pthread_create",
        "dlopen",
        "mkdir",
        "symlink",
        "rename",
        "unlink",
        "chmod",
        "flock",
    ),
    *("fork", "pipe2", "socketpair", "socket", "bind", "accept4", "epoll_create1", "eventfd"),
    "malloc",
)


@click.command(help=__doc__)
@click.option("--work", type=click.Choice(["load", "compile", "serve"]), required=True)
@click.option("--function", type=click.Choice(FUNCTIONS), help="One of them.  [default: all]")
@click.option("--step", default=1, show_default=True)
@click.option(
    "--cache",
    type=click.Choice(["warm", "cold"]),
    default="warm",
    show_default=True,
    help="Whether compiles find kernels and measurements in the cache.",
)
def main(work: str, function: str | None, step: int, cache: str) -> None:
    """Run the script; exit with 1 where a try shows a defect."""
    rows, codes = [], []
    with TemporaryDirectory(prefix="hios-fail-") as name:
        library, artifact = Path(name, "failing_calls.so"), Path(name, "model.hios")
        source = TESTS / "runtime" / "failing_calls.c"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", source, "-o", library, "-ldl"], check=True
        )
        write_artifact(artifact)
        for each in FUNCTIONS if function is None else [function]:
            Path(name, each).mkdir()
            arguments = [str(Path(name, each)), cache] if work == "compile" else [str(artifact)]
            script = str(TESTS / "runtime" / "failing_calls.py")
            done = subprocess.run(
                [sys.executable, script, str(library), work, each, str(step), *arguments],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(TESTS.parent), *PATHS]),
                    "PYTHONMALLOC": "malloc",  # so that memory for Python's objects fails, too
                    "LD_PRELOAD": str(library),
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            *defects, counts = done.stdout.splitlines() or [f"{each}: the process ended"]
            click.echo("\n".join([*defects, counts]))
            codes.append(done.returncode)
            rows.append([each, *(word for word in counts.split() if word.isdigit())])
    print_table(
        f"Calls that fail: {work}", ["function", "calls", "tries", "refused", "defects"], rows
    )
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
