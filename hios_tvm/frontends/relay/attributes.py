"""Typed access to the attributes of one operator call."""

from collections.abc import Mapping

from hios_tvm.errors import RelayError
from hios_tvm.frontends.relay import syntax
from hios_tvm.frontends.relay.parser import numpy_dtype
from hios_tvm.frontends.relay.syntax import Position

# They repeat what shapes say, or advise Relay's own code generation.
_WITHOUT_EFFECT = """
    attrs_type_key auto_scheduler_rewritten_layout channels kernel_size
    meta_schedule_original_shape schedule_rule tile_size units
"""
_IGNORED = frozenset(_WITHOUT_EFFECT.split())


class Attributes:
    """The attributes of a call; those that are missing have Relay's defaults.

    An attribute that no converter reads is an error: it may change what the operator computes.
    """

    def __init__(
        self, operator: str, values: Mapping[str, syntax.AttributeValue], position: Position
    ) -> None:
        self._operator = operator
        self._values = values
        self._position = position
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self.value(name) is not None

    def value(self, name: str, default: syntax.AttributeValue = None) -> syntax.AttributeValue:
        self._asked.add(name)
        return self._values.get(name, default)

    def optional_integer(self, name: str, default: int | None = None) -> int | None:
        value = self.value(name, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is None or isinstance(value, int):
            return value
        raise self._error(name, "an integer", value)

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.optional_integer(name, default)
        if value is None:
            raise self._error(name, "an integer", value)
        return int(value)

    def optional_integers(self, name: str) -> list[int] | None:
        value = self.value(name)
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        integers = [item for item in items if isinstance(item, int)]
        if len(integers) != len(items):
            raise self._error(name, "a list of integers", value)
        return integers

    def integers(self, name: str, default: list[int] | None = None) -> list[int]:
        value = self.optional_integers(name)
        value = default if value is None else value
        if value is None:
            raise self._error(name, "a list of integers", value)
        return value

    def pairs(self, name: str) -> list[tuple[int, int]]:
        """A list of pairs, such as ``[[0, 0], [1, 2]]``."""
        value = self.value(name)
        if isinstance(value, list) and all(
            isinstance(item, list) and list(map(type, item)) == [int, int] for item in value
        ):
            return [(item[0], item[1]) for item in value]
        raise self._error(name, "a list of pairs of integers", value)

    def number(self, name: str, default: float | None = None) -> float:
        value = self.value(name, default)
        if isinstance(value, (int, float)):
            return float(value)
        raise self._error(name, "a number", value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.value(name, default)
        if isinstance(value, int):  # the JSON format has 0 and 1
            return bool(value)
        raise self._error(name, "True or False", value)

    def text(self, name: str, default: str | None = None) -> str:
        value = self.value(name, default)
        if isinstance(value, str):
            return value
        raise self._error(name, "a string", value)

    def choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise self._error(name, " or ".join(choices), value)
        return value

    def dtype(self, name: str, default: str | None = None) -> str:
        """An element type by its NumPy name; an empty one means the default."""
        value = self.value(name, default)
        value = default if value in ("", "void", "None", None) else value
        if not isinstance(value, str):
            raise self._error(name, "an element type", value)
        return str(numpy_dtype(value, self._position))

    def ignore_all(self) -> None:
        self._asked.update(self._values)

    def check_all_known(self) -> None:
        """Refuse the call if it has attributes that were never asked for."""
        unknown = sorted(self._values.keys() - self._asked - _IGNORED)
        if unknown:
            names = ", ".join(unknown)
            raise self._position.error(f"{self._operator} has no attribute {names} that is known")

    def _error(self, name: str, expected: str, value: object) -> RelayError:
        found = "missing" if value is None else f"{str(value)[:40]!r}"
        return self._position.error(
            f"{self._operator}: the attribute {name} must be {expected}, and is {found}"
        )
