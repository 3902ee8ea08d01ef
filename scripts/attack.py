"""Attack artifacts, models, requests and commands, and count what comes of it.

Each try is refused with an error of hios-tvm, or succeeds and is right. Anything else is a defect:
results that hold foreign bytes, the end of the process, no end, any other exception. Tries run in
processes of their own, with limits on their time and memory.

    python scripts/attack.py
    python scripts/attack.py --only request --count 100 --seed 7 --json results.json
"""

import json
import sys
import time
from pathlib import Path

import click

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table
from hios_tvm.files import atomic_write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "frontends"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "robustness"))

import attacks_on_artifacts
import attacks_on_models
import attacks_on_processes
import attacks_on_requests
import attacks_on_resources
import attacks_on_servers
from attack_runner import OUTCOMES, Result, run_attack

MODULES = (
    *(attacks_on_artifacts, attacks_on_models, attacks_on_requests),
    *(attacks_on_resources, attacks_on_processes, attacks_on_servers),
)
ATTACKS = [attack for module in MODULES for attack in module.ATTACKS]
COLUMNS = {
    "refused": "refused cleanly",
    "right": "succeeded and right",
    "foreign": "foreign bytes",
    "crash": "crashes",
    "hang": "hangs",
    "traceback": "tracebacks",
}


@click.command(help=__doc__)
@click.option("--only", default="", help="Attacks whose names hold this text.")
@click.option("--count", type=int, help="Tries of each attack.  [default: its own number]")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--json", "file", type=click.Path(path_type=Path), help="Also write the counts there."
)
def main(only: str, count: int | None, seed: int, file: Path | None) -> None:
    """Run the script; exit with 1 where a try shows a defect."""
    results: list[Result] = []
    for attack in ATTACKS:
        if only.lower() not in attack.name.lower():
            continue
        start = time.monotonic()
        result = run_attack(attack, count or attack.count, seed)
        seconds = time.monotonic() - start
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(result.counts.items()))
        stdout().print(f"{result.name}: {counts} ({seconds:.0f} s)", markup=False, soft_wrap=True)
        for failure in result.failures:
            stdout().print(failure, markup=False, soft_wrap=True)
        results.append(result)
    rows = [
        [result.name, str(result.counts.total()), *(str(result.counts[o]) for o in OUTCOMES)]
        for result in results
    ]
    print_table("Attacks", ["attack", "tries", *COLUMNS.values()], rows)
    if file is not None:
        data = {result.name: dict(result.counts) for result in results}
        with atomic_write(file) as output:
            output.write(json.dumps({"seed": seed, "attacks": data}, indent=1).encode())
    sys.exit(not all(result.is_clean for result in results))


if __name__ == "__main__":
    main()
