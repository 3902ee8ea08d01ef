"""Compile random networks, compare them with ONNX Runtime, and shrink what fails.

A network is right, wrong (other numbers than ONNX Runtime's), crashed (any exception that is no
clear error, the end of the process, no end within the limit) or refused with a clear error. Where
the operator that a wrong network was shrunk to returns what ONNX's own reference implementation
does, the network is called "standard": ONNX Runtime differs from both.

    python scripts/fuzz_networks.py --count 500 --seed 0 --keep failures
    python scripts/fuzz_networks.py --count 50 --source nnsmith --nnsmith-python venv/bin/python

nnsmith (PyPI) needs PyTorch, so it has an environment of its own: --nnsmith-python names the
Python of that.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "networks"))

from random_networks.generate import random_network
from random_networks.judge import KINDS, Verdict, follows_standard
from random_networks.network import Network
from random_networks.reference import reference_of
from random_networks.shrink import shrink
from random_networks.worker import LATE, Judge

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table

KEPT_BY_CAUSE = 3
"""Failures of one cause that are shrunk and kept: wrong ones differ by their operators only."""


@click.command(help=__doc__)
@click.option("--count", default=100, show_default=True, help="How many networks.")
@click.option("--seed", default=0, show_default=True, help="The number of the first network.")
@click.option("--source", type=click.Choice(["own", "nnsmith"]), default="own", show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Where shrunk failures are kept.")
@click.option("--limit", default=120.0, show_default=True, help="Seconds for one network.")
@click.option("--patterns", type=int, help="How large own networks are.  [default: 1 to 9]")
@click.option("--nnsmith-python", default=sys.executable, help="The Python that has nnsmith.")
def main(
    count: int,
    seed: int,
    source: str,
    keep: Path | None,
    limit: float,
    patterns: int | None,
    nnsmith_python: str,
) -> None:
    """Run the script; exit with 1 where a network is wrong or crashed."""
    found: list[tuple[str, Verdict]] = []
    redrawn: Counter[str] = Counter()
    if source == "own":
        networks = _own(count, seed, patterns, redrawn)
    else:
        networks = _nnsmith(count, seed, nnsmith_python)
    with Judge(limit) as judge:
        for name, network in networks:
            verdict = judge(network)
            if verdict.kind != "right":
                line = f"{name}: {verdict.kind}: {verdict.reason.splitlines()[0][:200]}"
                stdout().print(line, markup=False, soft_wrap=True)
            same = [v for _, v in found if v.cause == verdict.cause]
            is_common = verdict.kind != "wrong" and len(same) >= KEPT_BY_CAUSE
            if verdict.kind in KINDS[1:] and not is_common:
                verdict = _shrunk(network, verdict, judge, keep, name)
            found.append((name, verdict))
    _report(found, redrawn)
    sys.exit(any(verdict.kind in ("wrong", "crashed") for _, verdict in found))


def _own(
    count: int, seed: int, patterns: int | None, redrawn: Counter[str]
) -> Iterator[tuple[str, Network]]:
    for number in range(seed, seed + count):
        network, refused = random_network(number, patterns=patterns)
        redrawn.update(reason.split(":")[0] for reason in refused)
        yield f"own{number}", network


def _nnsmith(count: int, seed: int, python: str) -> Iterator[tuple[str, Network]]:
    script = Path(__file__).with_name("nnsmith_networks.py")
    with tempfile.TemporaryDirectory(prefix="nnsmith-") as folder:
        command = [python, str(script), "--seed", str(seed), "--count", str(count)]
        made = subprocess.run([*command, "--folder", folder], capture_output=True, text=True)
        folders = sorted(Path(folder).iterdir(), key=lambda path: int(path.name))
        if not folders:
            last = (made.stderr.strip().splitlines() or [f"exit {made.returncode}"])[-1]
            raise click.ClickException(f"{script.name} made no network: {last}")
        stdout().print(f"nnsmith made {len(folders)} of {count} networks")
        for path in folders:
            yield f"nnsmith{path.name}", Network.load(path)


def _shrunk(
    network: Network, verdict: Verdict, judge: Judge, keep: Path | None, name: str
) -> Verdict:
    """Shrink a failure, write it into the folder `keep`, and return the final verdict."""
    is_late = verdict.reason.startswith(LATE)  # to shrink it would take the limit again and again
    small = network if is_late else shrink(network, verdict, judge)
    last = verdict if is_late else judge(small)
    if last.cause != verdict.cause:
        small, last = network, verdict  # what fails now and then is kept as it was found
    if last.kind == "wrong" and follows_standard(small):
        last = Verdict("standard", last.reason)
    operators = ", ".join(small.operators)
    stdout().print(f"  shrunk to {operators}: {last.kind}", markup=False, soft_wrap=True)
    if keep is not None:
        note = f"{last.kind}: {last.reason}\noperators: {operators}\n"
        small.save(keep / f"{name}_{last.kind}", reference_of(small).outputs, note)
    return last


def _report(found: list[tuple[str, Verdict]], redrawn: Counter[str]) -> None:
    kinds = Counter(verdict.kind for _, verdict in found)
    rows = [[kind, str(kinds[kind])] for kind in dict.fromkeys([*KINDS, *kinds])]
    print_table("Networks", ["verdict", "networks"], rows)
    causes = Counter(v.cause for _, v in found if v.kind not in ("right", "wrong", "standard"))
    example = {verdict.cause: name for name, verdict in reversed(found)}
    if causes:
        rows = [[str(n), example[cause], cause] for cause, n in causes.most_common()]
        print_table("Failures by cause", ["networks", "first", "cause"], rows)
    if redrawn:
        text = ", ".join(f"{name} {n}" for name, n in redrawn.most_common(12))
        stdout().print(f"drawn again: {sum(redrawn.values())} ({text})", markup=False)


if __name__ == "__main__":
    main()
