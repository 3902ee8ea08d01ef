"""JSON into frozen dataclasses, refusing everything that the dataclass does not declare."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any

from hios_tvm.errors import ArtifactError

__all__ = ["decode", "encode", "parse"]

_MAX_INT = 2**53  # what every JSON reader holds exactly, and more bytes than any file has


def parse(text: bytes) -> Any:
    """Read UTF-8 JSON; keys named twice, NaN and broken text are an `ArtifactError`."""
    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not valid JSON: {error}") from error


def encode(value: Any) -> Any:
    """Return plain data of a dataclass; inside a union the class's name comes first."""
    if is_dataclass(value) and not isinstance(value, type):
        hints = _hints(type(value))
        return {name: _encode_as(hints[name], getattr(value, name)) for name in hints}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def decode(kind: Any, data: Any, where: str) -> Any:
    """Read `data` as the type `kind`: exactly its fields, exactly their types.

    Parameters
    ----------
    kind
        A dataclass, ``str``, ``int``, ``float``, ``bool``, ``X | None``, a union of dataclasses
        (a list with the class's name in lower case, then its fields), ``tuple[X, ...]``,
        ``Mapping[str, X]``, a ``Literal`` of strings, or ``Any`` (kept as it is).
    where : str
        What to call `data` in messages.

    Raises
    ------
    ArtifactError
        On the first difference, naming the place.
    """
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if is_dataclass(kind) and isinstance(kind, type):
        return _decode_fields(kind, data, where)
    if origin is tuple:
        (item, _) = typing.get_args(kind)
        _require(isinstance(data, list), where, "a list", data)
        return tuple(decode(item, value, f"{where}[{i}]") for i, value in enumerate(data))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _require(isinstance(data, dict), where, "an object", data)
        value_kind = typing.get_args(kind)[1]
        return {key: decode(value_kind, value, f"{where}[{key!r}]") for key, value in data.items()}
    if origin is typing.Literal:
        choices = typing.get_args(kind)
        _require(isinstance(data, str) and data in choices, where, f"one of {choices}", data)
        return data
    if origin in (types.UnionType, typing.Union):
        return _decode_union(kind, data, where)
    return _decode_plain(kind, data, where)


def _decode_union(kind: Any, data: Any, where: str) -> Any:
    options = typing.get_args(kind)
    if type(None) in options:
        (other,) = (option for option in options if option is not type(None))
        return None if data is None else decode(other, data, where)
    classes = {option.__name__.lower(): option for option in options}
    tagged = isinstance(data, list) and data and isinstance(data[0], str) and data[0] in classes
    _require(tagged, where, f"a list that begins with one of {', '.join(classes)}", data)
    hints = _hints(classes[data[0]])
    _require(len(data) == 1 + len(hints), where, f"{len(hints)} fields after {data[0]!r}", data)
    return classes[data[0]](
        *(
            decode(hint, value, f"{where}.{name}")
            for (name, hint), value in zip(hints.items(), data[1:], strict=True)
        )
    )


def _decode_fields(kind: type, data: Any, where: str) -> Any:
    _require(isinstance(data, dict), where, "an object", data)
    hints = _hints(kind)
    optional = {f.name for f in fields(kind) if f.default is not MISSING}
    unknown = [key for key in data if key not in hints]
    missing = [key for key in hints if key not in data and key not in optional]
    if unknown or missing:
        problem = f"unknown field {unknown[0]!r}" if unknown else f"no field {missing[0]!r}"
        raise ArtifactError(f"{where} has {problem}")
    return kind(**{key: decode(hints[key], data[key], f"{where}.{key}") for key in data})


def _decode_plain(kind: Any, data: Any, where: str) -> Any:
    if kind is float:
        number = isinstance(data, int | float) and not isinstance(data, bool)
        _require(number and abs(data) <= _MAX_INT and math.isfinite(data), where, "a number", data)
        return float(data)
    if kind is int:
        whole = isinstance(data, int) and not isinstance(data, bool)
        _require(whole and 0 <= data <= _MAX_INT, where, "a whole number from 0 to 2**53", data)
        return data
    _require(isinstance(data, kind), where, f"of type {kind.__name__}", data)
    return data


def _encode_as(hint: Any, value: Any) -> Any:
    """Encode `value`; dataclasses of a union become ``[class name, field, field, ...]``."""
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return [_encode_as(item, element) for element in value]
    if typing.get_origin(hint) is types.UnionType and is_dataclass(value):
        kind: Any = type(value)
        names = _hints(kind)
        return [kind.__name__.lower(), *(encode(getattr(value, name)) for name in names)]
    return encode(value)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _require(holds: object, where: str, what: str, data: Any) -> None:
    if not holds:
        raise ArtifactError(f"{where} must be {what}, not {_shown(data)}")


def _shown(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is named twice")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")
