"""What the benchmark of schedulers rests on: cases, and measured effort."""

from __future__ import annotations

import pytest

from hios_tvm.experiments.cases import Case, Outcome, mean_of, run_cases, with_inter_only
from hios_tvm.experiments.random_graphs import LayeredGraphOptions, layered_graph
from hios_tvm.experiments.scaling import effort, growth_exponent, moves_per_second, sized_graph
from hios_tvm.schedulers import make_schedule
from hios_tvm.schema.instance import Instance


def small(devices: int, seed: int) -> Instance:
    options = LayeredGraphOptions(operators=30, edges=60, layers=5, devices=devices)
    return layered_graph(options, seed=seed)


def test_trials_are_what_the_schedulers_make() -> None:
    names = with_inter_only(["sequential", "hios-lp"])
    cases = [Case(name, small, (2, seed)) for name in names for seed in range(3)]
    outcomes = list(run_cases(cases))
    assert [(each.name, each.key) for each in outcomes] == [(t.name, t.key) for t in cases]
    for each in outcomes:
        instance = small(*each.key)
        scheduler, _, variant = each.name.partition(" --")
        options = {"inter_only": True} if variant else {}
        schedule = make_schedule(
            scheduler, instance.graph, instance.costs, instance.platform, **options
        )
        assert each.makespan_ms == schedule.makespan_ms
        assert each.lower_bound_ms == schedule.lower_bound_ms
    mean = mean_of(outcomes, lambda each: each.over_bound, "hios-lp", 2)
    inter_only = mean_of(outcomes, lambda each: each.over_bound, "hios-lp --inter-only", 2)
    assert mean is not None
    assert inter_only is not None
    assert 1.0 <= mean < inter_only


def test_means_choose_by_the_key() -> None:
    outcomes = [Outcome("a", (2, seed), seconds=float(seed)) for seed in (1, 3)]
    outcomes += [Outcome("a", (4, 1), seconds=8.0), Outcome("a", (4, 3), error="refused")]

    def seconds(each: Outcome) -> float | None:
        return each.seconds

    assert mean_of(outcomes, seconds, "a") == 4.0
    assert mean_of(outcomes, seconds, "a", 2) == 2.0
    assert mean_of(outcomes, seconds, "a", None, 1) == 4.5
    assert mean_of(outcomes, seconds, "a", 4, 3) is None
    assert mean_of(outcomes, seconds, "b") is None


def test_effort_is_measured_in_a_process_of_its_own() -> None:
    instance = sized_graph(50, 2)
    schedule = make_schedule("hios-lp", instance.graph, instance.costs, instance.platform)
    small_one = effort("hios-lp", 50, 2, repeats=3)
    assert (small_one.operators, small_one.edges) == (50, 100)
    assert small_one.makespan_ms == schedule.makespan_ms
    assert small_one.seconds > 0.0
    # An interpreter with these modules takes some ten MB, and this test's process far more.
    assert 10.0 < small_one.peak_mb < 200.0


def test_the_exponent_of_a_power_law_is_found() -> None:
    sizes = [100.0, 200.0, 1000.0]
    assert growth_exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)


def test_graphs_of_any_size_keep_their_proportions() -> None:
    for operators in (100, 200, 1000):
        graph = sized_graph(operators, 8).graph
        assert (len(graph.operators), len(graph.edges)) == (operators, 2 * operators)


def test_moves_are_timed_where_there_are_moves() -> None:
    rate = moves_per_second("refine", moves=20_000)
    assert rate is not None
    assert rate > 0.0
    assert moves_per_second("hios-lp") is None
