from __future__ import annotations

import pytest

from hios_tvm.backends.cpu.features import cpu_features
from hios_tvm.backends.cpu.targets import host_target, parse_target, vector_lanes, vector_registers
from hios_tvm.errors import UsageError


def test_host_is_the_default_target() -> None:
    assert str(parse_target("host")) == str(host_target())


@pytest.mark.parametrize(
    ("text", "lanes", "registers"),
    [
        ("portable", 8, 16),
        ("znver4", 16, 32),
        ("nehalem", 4, 16),
        ("aarch64-linux-gnu", 4, 32),
        ("aarch64-linux-gnu:neoverse-n1", 4, 32),
        ("cortex-a72", 4, 32),
        ("x86_64-linux-gnu:skylake-avx512", 16, 32),
    ],
)
def test_vectors_of_targets(text: str, lanes: int, registers: int) -> None:
    target = parse_target(text)
    assert (vector_lanes(target), vector_registers(target)) == (lanes, registers)


def test_doubles_take_twice_the_room() -> None:
    assert vector_lanes(parse_target("portable"), dtype_bits=64) == 4


@pytest.mark.parametrize("text", ["", "gpu", "znver99", "aarch64-linux-gnu:znver4"])
def test_unknown_targets(text: str) -> None:
    with pytest.raises(UsageError, match="target"):
        parse_target(text)


def test_what_a_virtual_machine_hides_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    features = set(cpu_features(host_target()))
    visible = {name for name in features if not name.startswith("avx512")}
    monkeypatch.setattr(
        "hios_tvm.backends.cpu.targets.available_features", lambda: frozenset(visible)
    )
    assert set(cpu_features(host_target())) == visible
    monkeypatch.setattr("hios_tvm.backends.cpu.targets.available_features", lambda: None)
    assert set(cpu_features(host_target())) >= visible
