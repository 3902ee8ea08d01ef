"""Many inputs through several sessions, in order."""

from __future__ import annotations

import itertools
import threading
from functools import partial

import numpy as np
import pytest
from hand_made import HandMade

from hios_tvm.errors import InputError, SessionClosedError
from hios_tvm.runtime import Session
from hios_tvm.runtime.replicas import run_in_order


def test_results_come_in_order_whoever_is_first() -> None:
    second_is_done = threading.Event()

    def run(value: int) -> int:
        if value == 0:
            assert second_is_done.wait(60)
        if value == 1:
            second_is_done.set()
        return value

    assert list(run_in_order([run, run], range(20))) == list(range(20))


def test_each_run_has_one_input_at_a_time() -> None:
    def run(lock: threading.Lock, value: int) -> int:
        assert lock.acquire(blocking=False)
        lock.release()
        return value

    runs = [partial(run, threading.Lock()) for _ in range(2)]
    assert sum(run_in_order(runs, range(50))) == sum(range(50))


def test_inputs_without_end_are_taken_a_few_ahead() -> None:
    taken: list[int] = []
    inputs = (taken.append(i) or i for i in itertools.count())
    results = run_in_order([str, str], inputs)
    assert [next(results), next(results)] == ["0", "1"]
    assert len(taken) <= 6
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("hios run_many")]


def test_an_error_comes_in_its_place_and_ends_it() -> None:
    results = run_in_order([lambda value: 1 // value], [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert next(results, None) is None


def test_a_session_runs_many_inputs(hand_made: HandMade, session: Session, x: np.ndarray) -> None:
    many = list(session.run_many(x * i for i in range(10)))
    for i, outputs in enumerate(many):
        for name, expected in hand_made.expected(x * i).items():
            np.testing.assert_array_equal(outputs[name], expected)
    with pytest.raises(InputError, match="'the input' is float32"):
        list(session.run_many([x, x[1:]]))
    assert list(session.run_many([])) == []
    assert session.run(x)


def test_a_closed_session_runs_none(hand_made: HandMade, x: np.ndarray) -> None:
    session = hand_made.load()
    session.close()
    with pytest.raises(SessionClosedError):
        session.run_many([x])
