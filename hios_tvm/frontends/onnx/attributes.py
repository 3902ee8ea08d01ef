"""Attributes of a node, read by name and type."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper


class Attributes:
    """The attributes of `node`, which remember what was read.

    A converter reads every attribute that it handles, so that what is left in `unread` is refused
    by name instead of being ignored.
    Each reader returns `default` where the attribute is absent, and raises a `ValueError` where it
    is absent without a default, or of another type.
    """

    def __init__(self, node: NodeProto) -> None:
        self._values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        self._read = {"consumed_inputs"}  # of opset 1, about memory

    def __contains__(self, name: str) -> bool:
        return name in self._values

    @property
    def unread(self) -> list[str]:
        """Names of the attributes that no reader has asked for."""
        return sorted(self._values.keys() - self._read)

    def ignore(self, *names: str) -> None:
        """Mark attributes as read that change no result at inference."""
        self._read.update(names)

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._typed(name, int, default))

    def number(self, name: str, default: float | None = None) -> float:
        return float(self._typed(name, float, default))

    def flag(self, name: str, default: bool = False) -> bool:
        """An integer that means yes or no."""
        return bool(self.integer(name, int(default)))

    def text(self, name: str, default: str | None = None) -> str:
        value = self._typed(name, bytes, None if default is None else default.encode())
        return bytes(value).decode(errors="replace")

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """A text that must be one of `allowed`, those that the converter handles."""
        value = self.text(name, default)
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; it can be {', '.join(allowed)}")
        return value

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        return self._list(name, int, default)

    def numbers(self, name: str, default: Sequence[float] | None = None) -> list[float]:
        return self._list(name, float, default)

    def texts(self, name: str, default: Sequence[str] | None = None) -> list[str]:
        encoded = None if default is None else [text.encode() for text in default]
        return [text.decode(errors="replace") for text in self._list(name, bytes, encoded)]

    def tensor(self, name: str) -> np.ndarray:
        """The elements of a tensor."""
        array: np.ndarray = numpy_helper.to_array(self._value(name, None))
        return array

    def graph(self, name: str) -> GraphProto:
        """The body of control flow."""
        return self._typed(name, GraphProto, None)

    def _value(self, name: str, default: Any) -> Any:
        self._read.add(name)
        value = self._values.get(name, default)
        if value is None:
            raise ValueError(f"the attribute {name!r} is missing")
        return value

    def _typed(self, name: str, kind: type, default: Any) -> Any:
        value = self._value(name, default)
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise ValueError(f"the attribute {name!r} is not of type {kind.__name__}")
        return value

    def _list(self, name: str, kind: type, default: Sequence[Any] | None) -> list[Any]:
        values = self._value(name, default)
        if not isinstance(values, Sequence) or not all(isinstance(v, kind) for v in values):
            raise ValueError(f"the attribute {name!r} is not a list of type {kind.__name__}")
        return list(values)
