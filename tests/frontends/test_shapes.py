from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hios_tvm.errors import UsageError
from hios_tvm.frontends.shapes import parse_shape


@given(name=st.text(min_size=1), shape=st.lists(st.integers(1, 10**6), min_size=1).map(tuple))
@pytest.mark.parametrize("separator", [",", "x"])
def test_reads_back_any_name_and_shape(separator: str, name: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(f"{name}:{separator.join(map(str, shape))}") == (name, shape)


@pytest.mark.parametrize(
    "text",
    ["", "x", ":1,2", "x:", "x:1,", "x:,1", "x:1,-3", "x:1.5", "x:a", "x:1 2", "x:1,٣", "x:1,0"],
)
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(UsageError, match="shape '"):
        parse_shape(text)
