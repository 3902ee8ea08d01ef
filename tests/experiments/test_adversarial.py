"""The adversarial search finds what is known to be bad, and graphs that show it again."""

from __future__ import annotations

import pytest

from hios_tvm.errors import UsageError
from hios_tvm.experiments.adversarial import AnnealingOptions, find_worst
from hios_tvm.schedulers import SCHEDULERS, make_schedule
from hios_tvm.schema.plain_graph import plain_graph_data, read_plain_graph

QUICK = AnnealingOptions(steps=150, hottest=0.5, coldest=0.01, cooling=0.97)


def test_one_device_is_found_to_be_bad_and_the_graph_shows_it() -> None:
    finding = find_worst("sequential", ["heft"], devices=3, seed=0, annealing=QUICK)
    assert finding.ratio > 1.5
    assert finding.rival == "heft"
    data = plain_graph_data(finding.instance.graph, finding.instance.costs, 3)
    graph, costs, devices = read_plain_graph(data)
    assert devices == 3
    makespans = [
        make_schedule(name, graph, costs, finding.instance.platform).makespan_ms
        for name in ("sequential", "heft")
    ]
    assert None not in makespans
    assert finding.ratio == pytest.approx(makespans[0] / makespans[1])


def test_the_seed_decides_what_is_found() -> None:
    first, same, other = (
        find_worst("heft", ["sequential", "hios-lp"], devices=2, seed=seed, annealing=QUICK)
        for seed in (1, 1, 2)
    )
    assert first == same
    assert first.instance != other.instance


def test_auto_predicts_no_more_than_the_best_of_the_others() -> None:
    rivals = [name for name in ("sequential", "hios-lp", "hios-mr", "heft") if name in SCHEDULERS]
    for seed in range(2):
        finding = find_worst(
            "auto", rivals, devices=3, seed=seed, options={"moves": 50}, annealing=QUICK
        )
        assert finding.ratio <= 1.0 + 1e-9


def test_a_search_needs_a_rival_and_a_way_to_cool_down() -> None:
    with pytest.raises(UsageError, match="heft has no rival"):
        find_worst("heft", [], devices=2, seed=0)
    for wrong in ({"steps": 0}, {"cooling": 1.0}, {"coldest": 0.0}, {"hottest": 0.01}):
        with pytest.raises(UsageError, match="not a valid cooling schedule"):
            AnnealingOptions(**wrong)
