"""Readers of foreign bytes: valid files are read, damaged ones are read or refused, none fails."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz_targets import INPUTS, TARGETS

KEPT = sorted(INPUTS.glob("*/*"))


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    target, rng = TARGETS[name], random.Random(0)
    seeds = target.seeds()
    assert all(target.accepts(content) for content in seeds[:4])
    accepted = [target.accepts(target.mutate(rng.choice(seeds), rng)) for _ in range(60)]
    assert accepted.count(False) >= 10


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_inputs_that_once_failed_are_refused(path: Path) -> None:
    assert not TARGETS[path.parent.name].accepts(path.read_bytes())
