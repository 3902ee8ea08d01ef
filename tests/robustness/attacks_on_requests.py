"""Attacks by inputs of a run: indices, divisors, and tensors of other shapes, types and layouts."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from attack_runner import Attack, Attempt, ForeignBytesError
from attacks_on_artifacts import attack_network
from fences import fenced
from index_cases import (
    CASES,
    DIVISIONS,
    Array,
    Case,
    compiled,
    division_model,
    is_ambiguous,
    is_valid,
    model_of,
)

import hios_tvm
from hios_tvm.errors import HiosError
from hios_tvm.frontends.onnx import from_onnx

_DTYPES = ("int8", "uint8", "int32", "int64")
Outputs = dict[str, Array]


class _Models:
    """Models that are compiled when they are first used, each also in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pairs: dict[str, tuple[hios_tvm.Session, onnxruntime.InferenceSession]] = {}

    def get(
        self, name: str, make: Callable[[], onnx.ModelProto]
    ) -> tuple[hios_tvm.Session, onnxruntime.InferenceSession]:
        if name not in self._pairs:
            model = make()
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            theirs = onnxruntime.InferenceSession(model.SerializeToString(), options)
            ours = compiled(from_onnx(model), self._folder / "model.hios")
            self._pairs[name] = ours, theirs
        return self._pairs[name]


def _hostile(rng: random.Random, low: int, high: int, dtype: Any) -> int:
    """Return a number from `low` to `high` in most cases, else one that is near or far."""
    info = np.iinfo(dtype)
    if rng.randrange(4):
        number = rng.randint(low, high)
    else:
        wide = (info.min, info.max, -(2**31), 2**31 - 1, 2**31, 2**32, -1, 0, low - 1, high + 1)
        number = rng.choice((*wide, rng.randint(int(info.min), int(info.max))))
    return min(max(number, int(info.min)), int(info.max))


def _require_equal(outputs: Outputs, expected: list[Array]) -> None:
    for (name, array), right in zip(outputs.items(), expected, strict=True):
        is_float = right.dtype.kind == "f"
        near = np.isclose(array, right, rtol=1e-4, atol=1e-5, equal_nan=True)
        if not np.all(near if is_float else array == right):
            raise ForeignBytesError(f"{name!r} is {array.tolist()}, and not {right.tolist()}")


def _indices(folder: Path) -> Attempt:
    models = _Models(folder)

    def values_of(case: Case, rng: random.Random) -> Array:
        count = int(np.prod(case.shape))
        columns = [i % len(case.low) for i in range(count)]
        numbers = [_hostile(rng, case.low[c], case.high[c], case.dtype) for c in columns]
        return np.array(numbers, case.dtype).reshape(case.shape)

    def attempt(rng: random.Random) -> None:
        name = rng.choice(list(CASES))
        case = CASES[name]
        ours, theirs = models.get(name, lambda: model_of(case))
        values = values_of(case, rng)
        feeds = {**case.others, case.name: values}
        at_end = bool(rng.randrange(2))
        inputs = {name: fenced(array, at_end=at_end) for name, array in feeds.items()}
        out = {t.name: fenced(np.empty(t.shape, t.dtype), at_end=at_end) for t in ours.outputs}
        outputs = ours.run(inputs, out=out)
        if not is_valid(case, values):
            raise ForeignBytesError(f"{name} accepts {values.tolist()}")
        if not is_ambiguous(case, values):
            _require_equal(outputs, theirs.run(None, feeds))

    return attempt


def _divisors(folder: Path) -> Attempt:
    models = _Models(folder)
    exact: dict[str, Callable[[int, int], int]] = {  # ONNX Runtime rounds large quotients
        "Div": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
        "Mod": lambda a, b: a % b,
        "Mod fmod": lambda a, b: abs(a) % abs(b) * (1 if a >= 0 else -1),
    }

    def attempt(rng: random.Random) -> None:
        name, dtype = rng.choice(list(DIVISIONS)), np.dtype(rng.choice(_DTYPES))
        make = partial(division_model, DIVISIONS[name], dtype.type)
        ours, _ = models.get(f"{name} {dtype}", make)
        info = np.iinfo(dtype)
        numbers = [_hostile(rng, int(info.min), int(info.max), dtype) for _ in range(3)]
        divisors = [_hostile(rng, 1, 9, dtype) for _ in range(3)]
        feeds = {"a": np.array(numbers, dtype), "i": np.array(divisors, dtype)}
        outputs = ours.run(feeds)
        if 0 in divisors:
            raise ForeignBytesError(f"{name} divides by {divisors}")
        pairs = zip(numbers, divisors, strict=True)
        right = [exact[name](a, b) for a, b in pairs]
        _require_equal(outputs, [np.array(right, dtype)])

    return attempt


def _tensors(folder: Path) -> Attempt:
    ours, theirs = _Models(folder).get("network", attack_network)
    good = {
        "x": np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32),
        "i": np.array([0, 5, -1]),
    }
    expected = theirs.run(None, good)

    def attempt(rng: random.Random) -> None:
        inputs, out = _spoiled(good, rng), _spoiled_outputs(rng)
        try:
            outputs = ours.run(inputs, out=out)
            given = dict(zip(good, inputs, strict=True)) if isinstance(inputs, list) else inputs
            feeds = {name: np.ascontiguousarray(array) for name, array in given.items()}
            _require_equal(outputs, theirs.run(None, feeds))
        except HiosError:
            _require_equal(ours.run(good), expected)  # the session works again
            raise

    return attempt


def _spoiled(good: Outputs, rng: random.Random) -> Any:
    """Return the inputs with one thing about them changed."""
    name = rng.choice(["x", "i"])
    array = good[name]
    changes: list[Callable[[], Any]] = [
        lambda: array.astype(rng.choice(["float64", "float16", "int8", "complex64", "U5", "O"])),
        lambda: array.astype(array.dtype.newbyteorder(">")),
        lambda: np.asfortranarray(array),
        lambda: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda: array[::-1].copy()[::-1],
        lambda: array.reshape(rng.choice([(-1,), (1, *array.shape), (*array.shape, 1)])),
        lambda: array[: rng.randrange(len(array))],
        lambda: np.broadcast_to(array[:1], (2**40, *array.shape[1:])),
        lambda: np.lib.stride_tricks.as_strided(array, array.shape, (0,) * array.ndim),
        lambda: array.tobytes(),
        lambda: array.tolist(),
        lambda: None,
        lambda: (
            np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
            .view(array.dtype)
            .reshape(array.shape)
        ),
        lambda: np.ma.masked_array(array, mask=True),
        lambda: array[..., None],
        lambda: type("Lies", (), {"__dlpack__": lambda *_, **__: None})(),
        lambda: type("Lies", (), {"__array__": lambda *_, **__: array[:1]})(),
    ]
    inputs: dict[Any, Any] = {**good, name: rng.choice(changes)()}
    match rng.randrange(8):
        case 0:
            del inputs[name]
        case 1:
            inputs[rng.choice(["", "y", "\0", 3, None])] = array
        case 2:
            return list(inputs.values())[: rng.randrange(3)]
    return inputs


def _spoiled_outputs(rng: random.Random) -> Any:
    """Return arrays for outputs, or something else."""
    array = np.empty((3, 5), np.float32)
    read_only = array.copy()
    read_only.flags.writeable = False
    choices: list[Any] = [None, None, None, {"y": None}, [], [array, array], array, 3]
    choices += [{"y": out} for out in (array, array[:2], array.T, read_only)]
    choices += [{"z": array}, {"y": array.astype("float64")}]
    return rng.choice(choices)


ATTACKS = (
    Attack("request: indices", _indices, 5000, limit_s=90),
    Attack("request: divisors", _divisors, 3000, limit_s=90),
    Attack("request: tensors", _tensors, 3000),
)
