"""Random inputs, and those that show whether a model is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from hios_tvm.errors import ModelError, UsageError
from hios_tvm.runtime.numpy_files import read_numpy
from hios_tvm.schema.dtypes import numpy_dtype
from hios_tvm.schema.graph import Tensor
from hios_tvm.schema.manifest import TensorSpec
from hios_tvm.verification.deviation import Arrays

Spec: TypeAlias = Tensor | TensorSpec
"""Has name, shape and type of an input."""

_PIXELS = ("uint8", "int8")
SEEDS = (0, 1)
LARGER_SCALES = (10, 100)
LEAST_CHANGE = 1e-3
"""How much outputs of two draws should differ, relative to their largest magnitude."""


@dataclass(frozen=True)
class IntegerRange:
    """Whole numbers from `low` to `high`, both included; `high` is None where nothing limits it."""

    low: int = 0
    high: int | None = None

    def __and__(self, other: IntegerRange) -> IntegerRange:
        """Return the numbers that are in both."""
        highs = [high for high in (self.high, other.high) if high is not None]
        return IntegerRange(max(self.low, other.low), min(highs, default=None))

    def shifted(self, by: int) -> IntegerRange:
        """Return the numbers whose sum with `by` is in this range, none below 0."""
        high = None if self.high is None else self.high - by
        return IntegerRange(max(self.low - by, 0), high)

    @property
    def is_empty(self) -> bool:
        return self.high is not None and self.high < self.low


def random_inputs(
    specs: Sequence[Spec],
    seed: int,
    value_range: tuple[float, float] | None = None,
    *,
    integers: Mapping[str, IntegerRange] = MappingProxyType({}),
    scale: int = 1,
) -> dict[str, np.ndarray]:
    """Draw inputs: normal floats times `scale`, or uniform in `value_range`.

    Whole numbers are uniform in `value_range`, or in what `integers` says. Others are 0 or 1, which
    are valid indices of any table; those of 8 bits, which may be pixels, go from 0 to `scale`.
    """
    rng = np.random.default_rng(seed)
    inputs: dict[str, np.ndarray] = {}
    for spec in specs:
        name, shape, dtype = spec.name, spec.shape, spec.dtype
        drawn: np.ndarray
        if dtype == "bool" or dtype.startswith(("int", "uint")):
            low, high = _integer_limits(integers.get(name), value_range, dtype, scale)
            drawn = rng.integers(low, high, shape, endpoint=True)
        elif value_range is None:
            drawn = scale * rng.standard_normal(shape)
        else:
            drawn = rng.uniform(*value_range, shape)
        if dtype == "float8_e8m0fnu":  # powers of two, and no others
            drawn = np.abs(drawn)
        inputs[name] = np.asarray(drawn).astype(numpy_dtype(dtype))
    return inputs


def given_inputs(
    words: Sequence[str],
    specs: Sequence[Spec],
    seed: int,
    value_range: tuple[float, float] | None = None,
) -> dict[str, np.ndarray]:
    """Read the inputs that a command line gives, and draw the others.

    Parameters
    ----------
    words : sequence of str
        As in `read_arrays`.
    specs
        All inputs of the model.
    seed, value_range
        As in `random_inputs`.

    Raises
    ------
    UsageError
        As `read_arrays`, and if a name is unknown.
    """
    given = read_arrays(words, "--input")
    names = [spec.name for spec in specs]
    unknown = given.keys() - set(names)
    if unknown:
        raise UsageError(
            f"unknown inputs {', '.join(sorted(unknown))}; the model has {', '.join(names)}"
        )
    missing = [spec for spec in specs if spec.name not in given]
    return {**random_inputs(missing, seed, value_range), **given}


def read_arrays(words: Sequence[str], option: str) -> dict[str, np.ndarray]:
    """Read the arrays of a command line: ``NAME=FILE.npy``, or ``FILE.npz`` with several.

    Raises
    ------
    UsageError
        If a word of `option` cannot be understood, or a file cannot be read.
    """
    given: dict[str, np.ndarray] = {}
    for word in words:
        name, equals, file = word.rpartition("=")
        loaded = read_numpy(Path(file if equals else word))
        if isinstance(loaded, dict):
            given.update(loaded)
        elif equals:
            given[name] = loaded
        else:
            raise UsageError(f"{option} {word}: write NAME={word}")
    return given


def _integer_limits(
    own: IntegerRange | None, value_range: tuple[float, float] | None, dtype: str, scale: int
) -> tuple[int, int]:
    if value_range is not None:
        return int(value_range[0]), int(value_range[1])
    if dtype == "bool":
        return 0, 1
    own = own or IntegerRange()
    most = int(np.iinfo(dtype).max)
    upwards = scale if dtype in _PIXELS else 1
    high = own.low + upwards if own.high is None else own.high
    return min(own.low, most), min(high, most)


@dataclass(frozen=True)
class Draws:
    """Inputs and the reference's outputs of them, draw by draw.

    `unchanged` names the outputs that are (nearly) the same in all draws.
    """

    inputs: tuple[Arrays, ...]
    expected: tuple[Arrays, ...]
    scale: int
    unchanged: tuple[str, ...]


def telling_draws(
    specs: Sequence[Spec],
    integers: Mapping[str, IntegerRange],
    run: Callable[[Arrays], Arrays],
) -> Draws:
    """Draw inputs for each of `SEEDS`, large enough that the outputs depend on them.

    A network whose activations vanish returns nearly the same for all inputs, and a wrong kernel in
    it would not show. Where `run`, the reference, returns outputs that differ by less than
    `LEAST_CHANGE`, inputs of 10 and 100 times the size are tried; the smallest with which most
    outputs change are used.
    """

    def draw(scale: int) -> Draws:
        inputs = tuple(random_inputs(specs, seed, integers=integers, scale=scale) for seed in SEEDS)
        first, second = expected = tuple(map(run, inputs))
        unchanged = tuple(name for name in first if not _changes(first[name], second[name]))
        return Draws(inputs, expected, scale, unchanged)

    best = draw(1)
    for scale in LARGER_SCALES:
        if not _needs_more(best):
            break
        try:
            found = draw(scale)
        except ModelError:  # values of this size are not valid
            break
        if len(found.unchanged) < len(best.unchanged):
            best = found
    return best


def _changes(first: np.ndarray, second: np.ndarray) -> bool:
    if first.dtype.kind in "iub":
        return bool(np.any(first != second))
    a, b = first.astype(np.float64), second.astype(np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    change = np.max(np.abs(a[known] - b[known]), initial=0.0)
    return bool(change >= LEAST_CHANGE * np.max(np.abs(a[known]), initial=0.0) and change > 0)


def _needs_more(draws: Draws) -> bool:
    """Whether an output of floats is unchanged; the class of two images may well be the same."""
    exact = {name for name, array in draws.expected[0].items() if array.dtype.kind in "iub"}
    return any(name not in exact for name in draws.unchanged) or (
        len(draws.unchanged) == len(draws.expected[0])
    )
