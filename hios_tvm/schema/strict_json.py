"""JSON into frozen dataclasses, refusing everything that the dataclass does not declare.

Every file of this project is read here: manifests of artifacts, cost files, schedules. A dataclass
is a JSON object of its fields, under the names that their metadata gives as ``json``, if it does.
Fields whose metadata says ``optional`` are left out where they have their default. What would be an
object of a single field is that field alone.
"""

import json
import math
import re
import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from hios_tvm.errors import ArtifactError, HiosError

T = TypeVar("T")

_MAX_INT = 2**53  # what every JSON reader holds exactly, and more bytes than any file has


@dataclass(frozen=True)
class Document(Generic[T]):
    """A kind of JSON file: a dataclass with a version beside its fields.

    Attributes
    ----------
    name : str
        What to call it in messages, such as ``schedule``.
    version : int
    kind : type
        The dataclass.
    error : type
        What is raised for anything else.
    remake : str
        What to do about a file of another version.
    """

    name: str
    version: int
    kind: type[T]
    error: type[HiosError]
    remake: str

    def to_data(self, value: T) -> dict[str, Any]:
        """Return plain data for JSON; `from_data` restores an equal value."""
        return {"version": self.version, **encode(value)}

    def to_json(self, value: T, *, indent: int | None = None) -> str:
        """Return JSON; `from_json` restores an equal value."""
        return json.dumps(self.to_data(value), indent=indent)

    def from_data(self, data: Any) -> T:
        """Read what `to_data` returned."""
        version = data.get("version") if isinstance(data, Mapping) else None
        if version != self.version:
            raise self.error(
                f"{self.name} has version {version!r}, this program reads version {self.version}: "
                f"{self.remake}"
            )
        try:
            content = {key: value for key, value in data.items() if key != "version"}
            value: T = decode(self.kind, content, self.name)
        except HiosError as error:  # of the dataclasses too, which check what they hold
            raise self.error(f"not a {self.name}: {error}") from error
        return value

    def from_json(self, text: str | bytes) -> T:
        """Read what `to_json` returned."""
        return self.from_data(self.parse(text))

    def parse(self, text: str | bytes) -> Any:
        """Return the plain data of a file, before anything of it is checked."""
        try:
            return parse(text, constants=True)
        except ArtifactError as error:
            raise self.error(f"not a {self.name}: {error}") from error


def parse(text: str | bytes, *, constants: bool = False) -> Any:
    """Read UTF-8 JSON.

    Keys named twice and broken text are an `ArtifactError`, and so are NaN and Infinity, which are
    not JSON, unless `constants` admits them.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        data = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=float if constants else _no_constant,
            parse_float=_finite,
        )
        check_characters(text, data)
        return data
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not valid JSON: {error}") from error


def check_characters(text: str, data: Any) -> None:
    """Raise `ValueError` where `text` escapes half a character, so that `data` is no UTF-8."""
    if re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(data, ensure_ascii=False).encode()


def encode(value: Any) -> Any:
    """Return plain data of a dataclass; inside a union the class's name comes first."""
    if is_dataclass(value) and not isinstance(value, type):
        hints, members = _hints(type(value)), _members(type(value))
        data = {
            key: _encode_as(hints[f.name], getattr(value, f.name))
            for key, f in members.items()
            if not (_is_optional(f) and getattr(value, f.name) == f.default)
        }
        return data if len(data) > 1 else next(iter(data.values()))
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
        ``tuple[X, Y]``, ``Mapping[str, X]``, a ``Literal`` of strings, or ``Any`` (kept as it is).
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
        return _decode_tuple(kind, data, where)
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


def _decode_tuple(kind: Any, data: Any, where: str) -> tuple[Any, ...]:
    _require(isinstance(data, list), where, "a list", data)
    items = typing.get_args(kind)
    if items[-1] is Ellipsis:
        items = items[:1] * len(data)
    _require(len(data) == len(items), where, f"a list of {len(items)}", data)
    return tuple(
        decode(item, value, f"{where}[{i}]")
        for i, (item, value) in enumerate(zip(items, data, strict=True))
    )


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
    hints, members = _hints(kind), _members(kind)
    always = [field for field in members.values() if not _is_optional(field)]
    if len(always) == 1 and (len(members) == 1 or not isinstance(data, dict)):
        return kind(**{always[0].name: decode(hints[always[0].name], data, where)})
    _require(isinstance(data, dict), where, "an object", data)
    unknown = [key for key in data if key not in members]
    missing = [key for key, f in members.items() if key not in data and not _has_default(f)]
    if unknown or missing:
        problem = f"unknown field {unknown[0]!r}" if unknown else f"no field {missing[0]!r}"
        raise ArtifactError(f"{where} has {problem}")
    found = {members[key].name: key for key in data}
    return kind(
        **{name: decode(hints[name], data[key], f"{where}.{key}") for name, key in found.items()}
    )


def _decode_plain(kind: Any, data: Any, where: str) -> Any:
    if kind is float:
        number = isinstance(data, int | float) and not isinstance(data, bool)
        is_real = isinstance(data, float)  # whole numbers may be too large for a float
        _require(number and not (is_real and math.isnan(data)), where, "a number", data)
        fits = abs(data) <= _MAX_INT or (is_real and math.isinf(data))
        _require(fits, where, "at most 2**53", data)
        return float(data)
    if kind is int:
        whole = isinstance(data, int) and not isinstance(data, bool)
        _require(whole and 0 <= data <= _MAX_INT, where, "a whole number from 0 to 2**53", data)
        return data
    _require(isinstance(data, kind), where, f"of type {kind.__name__}", data)
    return data


def _encode_as(hint: Any, value: Any) -> Any:
    """Encode `value`; dataclasses of a union become ``[class name, field, field, ...]``."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        items = args[:1] * len(value) if args[-1] is Ellipsis else args
        return [_encode_as(item, element) for item, element in zip(items, value, strict=True)]
    if typing.get_origin(hint) is types.UnionType and type(None) not in args:
        kind: Any = type(value)
        return [kind.__name__.lower(), *(encode(getattr(value, name)) for name in _hints(kind))]
    return encode(value)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def _members(kind: Any) -> dict[str, Field[Any]]:
    """Return the fields of a dataclass by their names in JSON."""
    return {field.metadata.get("json", field.name): field for field in fields(kind)}


def _is_optional(field: Field[Any]) -> bool:
    return bool(field.metadata.get("optional"))


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _require(holds: object, where: str, what: str, data: Any) -> None:
    if not holds:
        raise ArtifactError(f"{where} must be {what}, not {_shown(data)}")


def _shown(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"key {twice[:60]!r} is named twice")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number
