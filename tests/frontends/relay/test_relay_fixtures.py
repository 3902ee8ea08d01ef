"""Operators that Relay 0.17 printed give the outputs that it computed."""

from __future__ import annotations

from pathlib import Path

import pytest
from relay_programs import DATA, check_outputs, imported, run_lowered, run_module

OPERATORS = sorted((DATA / "operators").glob("*.relay"))


def test_there_are_recorded_operators() -> None:
    assert len(OPERATORS) == 33


@pytest.mark.parametrize("path", OPERATORS, ids=lambda path: path.stem)
def test_operator(path: Path) -> None:
    mod, inputs = imported(path)
    check_outputs(path, run_module(mod, inputs))
    check_outputs(path, run_lowered(mod, inputs))
