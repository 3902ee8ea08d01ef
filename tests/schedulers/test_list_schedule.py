"""Lists of stages: their times are the evaluator's, and every change keeps them valid."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from cases import Case, cases
from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.schedulers.evaluate import evaluate, unit_orders
from hios_tvm.schedulers.list_schedule import Clock, Timed, merged, order_of
from hios_tvm.schedulers.problem import PlacedStage, Problem


def independent(case: Case) -> Case:
    return replace(case, platform=replace(case.platform, independence=1.0))


def random_list(problem: Problem, rng: random.Random) -> list[PlacedStage]:
    """Operators on random devices, with some neighbours merged."""
    stages = [problem.single(v, rng.choice(problem.devices)) for v in problem.priority]
    for _ in range(len(stages)):
        i, j = sorted((rng.randrange(len(stages)), rng.randrange(len(stages))))
        groups = len(stages[i].groups) + len(stages[j].groups)
        if i == j or stages[i].device != stages[j].device:
            continue
        if groups > problem.platform.devices[stages[i].device].streams:
            continue
        tail = merged(problem, stages, [i, j])
        if tail is not None:
            stages[i:] = tail
    return stages


def makespan_ms(case: Case, problem: Problem, stages: list[PlacedStage]) -> float:
    schedule = problem.schedule("random", stages)
    return evaluate(case.graph, case.costs, case.platform, schedule).makespan_ms


@settings(deadline=None, max_examples=200)
@given(cases(), st.integers(0, 2**32))
def test_times_are_those_of_the_evaluator(case: Case, seed: int) -> None:
    case = independent(case)
    problem = Problem.of(case.graph, case.costs, case.platform)
    stages = random_list(problem, random.Random(seed))
    timed = Timed(Clock.at_start(problem), stages)
    assert timed.outcome[0] == pytest.approx(makespan_ms(case, problem, stages))


@settings(deadline=None, max_examples=100)
@given(cases(), st.integers(0, 2**32))
def test_a_tail_costs_what_the_whole_list_costs(case: Case, seed: int) -> None:
    rng = random.Random(seed)
    problem = Problem.of(case.graph, case.costs, case.platform)
    stages = random_list(problem, rng)
    timed = Timed(Clock.at_start(problem), stages)
    first = rng.randrange(len(stages))
    tail = [
        problem.stage(stage.groups, rng.choice(problem.devices))
        if len(stage.groups) == 1
        else stage
        for stage in stages[first:]
    ]
    whole = Timed(Clock.at_start(problem), [*stages[:first], *tail]).outcome
    before = timed.outcome
    assert timed.try_tail(first, tail) == pytest.approx(whole)
    assert timed.outcome == before
    nothing_left = [0.0] * len(problem.operators)
    assert timed.ends_within(whole[0] * 1.000001, first, tail, nothing_left)
    assert whole[0] == 0.0 or not timed.ends_within(whole[0] * 0.99, first, tail, nothing_left)
    timed.replace(first, tail)
    assert timed.outcome == pytest.approx(whole)


@settings(deadline=None, max_examples=100)
@given(cases(), st.integers(0, 2**32))
def test_a_schedule_becomes_a_list_and_back(case: Case, seed: int) -> None:
    problem = Problem.of(case.graph, case.costs, case.platform)
    schedule = problem.schedule("random", random_list(problem, random.Random(seed)))
    again = problem.schedule("random", order_of(problem, schedule))
    assert unit_orders(case.platform, again) == unit_orders(case.platform, schedule)
    for device, same in zip(schedule, again, strict=True):
        assert [stage.groups for stage in device.stages] == [stage.groups for stage in same.stages]
