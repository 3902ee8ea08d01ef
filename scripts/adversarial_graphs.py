"""Search for graphs on which a scheduler is far worse than the best of the others.

Simulated annealing over graphs of up to 12 operators (PISA, arXiv 2403.07120), from several seeds
and on several numbers of devices. Prints the worst ratios, and writes them with their graphs, which
`hios-tvm schedule` reads. What `auto` predicts must never be above the best of the others: if it
is, the exit code is 1.

    python scripts/adversarial_graphs.py --seeds 10 --jobs 2
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hios_tvm.cli.console import stdout
from hios_tvm.cli.options import print_table, scheduler_options
from hios_tvm.cli.progress import progress_bar
from hios_tvm.experiments.adversarial import AnnealingOptions, Finding, find_worst
from hios_tvm.experiments.comparison import check_options, choose_schedulers, options_for
from hios_tvm.experiments.parallel import run_parallel
from hios_tvm.schedulers import SCHEDULERS
from hios_tvm.schema.plain_graph import plain_graph_data

RESULTS = Path(__file__).parent / "results"
NEVER_WORSE = "auto"
ROUNDING = 1e-9
MOVES = 200  # of a local search, unless --option moves=... says otherwise: the graphs are tiny
SIZES = ("devices", "operators", "edges")


@dataclass(frozen=True)
class Search:
    scheduler: str
    rivals: tuple[str, ...]
    devices: int
    seed: int
    options: dict[str, Any]
    annealing: AnnealingOptions

    def run(self) -> tuple[Search, Finding]:
        finding = find_worst(
            self.scheduler,
            self.rivals,
            devices=self.devices,
            seed=self.seed,
            options=self.options,
            annealing=self.annealing,
        )
        return self, finding


@click.command(help=__doc__)
@click.option(
    "--schedulers",
    default=",".join(name for name in ("hios-lp", "hios-mr", "heft", "auto") if name in SCHEDULERS),
    show_default=True,
    help="Whose worst graphs are searched for.",
)
@click.option(
    "--rivals",
    default=",".join(name for name in SCHEDULERS if name not in ("optimal", NEVER_WORSE)),
    show_default=True,
    help="Whom they are compared with.",
)
@click.option("--devices", default="2,4", show_default=True, help="Numbers of devices.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--cooling", default=0.995, show_default=True, type=click.FloatRange(0.5, 0.9999))
@scheduler_options
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1))
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=RESULTS,
    help="Where adversarial_graphs.json goes.",
)
def main(
    schedulers: str,
    rivals: str,
    devices: str,
    seeds: int,
    steps: int,
    cooling: float,
    options: dict[str, Any],
    jobs: int,
    folder: Path,
) -> None:
    targets, others = choose_schedulers(schedulers), choose_schedulers(rivals)
    if any(options_for(name, {"moves": MOVES}) for name in (*targets, *others)):
        options.setdefault("moves", MOVES)
    check_options({*targets, *others}, options)
    annealing = AnnealingOptions(steps=steps, cooling=cooling, hottest=1.0, coldest=0.01)
    searches = [
        Search(
            target,
            tuple(name for name in others if name != target),
            int(count),
            seed,
            options,
            annealing,
        )
        for seed in range(seeds)
        for target in targets
        for count in devices.split(",")
    ]
    findings: dict[str, list[tuple[Search, Finding]]] = {target: [] for target in targets}
    with progress_bar() as progress:
        progress("search", 0, len(searches))
        for done, (search, finding) in enumerate(run_parallel(Search.run, searches, jobs=jobs), 1):
            findings[search.scheduler].append((search, finding))
            progress("search", done, len(searches))
    data = {target: _summary(found) for target, found in findings.items()}
    rows = [
        [target, f"{each['worst_ratio']:.4f}", each["rival"], f"{each['mean_ratio']:.4f}"]
        + [str(each[size]) for size in SIZES]
        for target, each in data.items()
    ]
    columns = ["scheduler", "worst ratio", "rival", "mean of searches", *SIZES]
    print_table(f"worst graphs of {len(searches)} searches", columns, rows)
    path = folder / "adversarial_graphs.json"
    path.write_text(json.dumps({"rivals": others, "options": options, **data}, indent=1) + "\n")
    if data.get(NEVER_WORSE, {}).get("worst_ratio", 1.0) > 1.0 + ROUNDING:
        stdout().print(f"{NEVER_WORSE} is worse than {data[NEVER_WORSE]['rival']} on a graph")
        sys.exit(1)


def _summary(found: list[tuple[Search, Finding]]) -> dict[str, Any]:
    search, worst = max(found, key=lambda pair: (pair[1].ratio, -pair[0].seed))
    graph = plain_graph_data(worst.instance.graph, worst.instance.costs, search.devices)
    return {
        "worst_ratio": worst.ratio,
        "mean_ratio": sum(finding.ratio for _, finding in found) / len(found),
        "searches": len(found),
        "rival": worst.rival,
        "devices": search.devices,
        "operators": len(graph["operators"]),
        "edges": len(graph["edges"]),
        "graph": graph,
    }


if __name__ == "__main__":
    main()
