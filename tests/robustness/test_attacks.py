"""Attacks are refused, or give the right result: a few tries of those that need no compiler."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal

import numpy as np
import pytest
from attack_runner import Attack, run_attack
from attacks_on_artifacts import ATTACKS as ON_ARTIFACTS
from attacks_on_requests import ATTACKS as ON_REQUESTS
from fences import fenced
from known_outcomes import each_outcome, hang

from hios_tvm.runtime.memory import address_of


def test_each_outcome_is_told_apart() -> None:
    result = run_attack(Attack("all", each_outcome, 4), 4, seed=0)
    assert result.counts == {"refused": 1, "right": 1, "foreign": 1, "crash": 1}
    assert "exit code -11" in result.failures[1]
    assert not result.is_clean
    assert run_attack(Attack("hang", hang, 1, limit_s=0.1), 1, seed=0).counts == {"hang": 1}


@pytest.mark.parametrize(
    ("attack", "count"),
    [(ON_ARTIFACTS[1], 60), (ON_REQUESTS[2], 60)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_few_tries_show_no_defect(attack: Attack, count: int) -> None:
    result = run_attack(attack, count, seed=0)
    assert result.failures == []
    assert result.counts["refused"] >= count // 2
    assert result.counts["right"] >= 1


@pytest.mark.parametrize(("at_end", "outside"), [(False, -1), (True, 128)])
def test_who_leaves_a_fenced_array_ends(at_end: bool, outside: int) -> None:
    array = fenced(np.arange(32, dtype=np.float32), at_end=at_end)
    np.testing.assert_array_equal(array, np.arange(32))
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        ctypes.string_at(address_of(array) + outside, 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGSEGV
