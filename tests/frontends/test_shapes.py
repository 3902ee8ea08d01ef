from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hios_tvm.errors import UsageError
from hios_tvm.frontends.shapes import one_shape, parse_shape, several_shapes


@given(name=st.text(min_size=1), shape=st.lists(st.integers(1, 10**6), min_size=1).map(tuple))
@pytest.mark.parametrize("separator", [",", "x"])
def test_reads_back_any_name_and_shape(separator: str, name: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(f"{name}:{separator.join(map(str, shape))}") == (name, shape)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            ":1,2",
            "x:",
            "x:1,",
            "x:,1",
            "x:1,-3",
            "x:1.5",
            "x:a",
            "x:1 2",
            "x:1,٣",
            "x:1,0",
        ),
        *("x:1..", "x:8..1,3", "x:0..3", "x:{}", "x:{1,2", "x:{0,2}", "x:{1..2}", "x:1...8"),
    ],
)
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(UsageError, match="shape '"):
        parse_shape(text)


@pytest.mark.parametrize(
    ("last", "programs", "sizes"),
    [
        (4, [], [4, 3, 2, 1]),
        (8, [], [8, 4, 2, 1]),
        (12, [], [12, 8, 4, 2, 1]),
        (12, [12, 3], [12, 3]),
    ],
)
def test_ranges_have_programs_for_some_sizes(
    last: int, programs: list[int], sizes: list[int]
) -> None:
    several = several_shapes({"x": (range(1, last + 1), 7)}, programs)
    assert [shape["x"] for shape in several.shapes] == [(size, 7) for size in sizes]
    assert several.batch == {"x": 0}


def test_programs_take_the_sizes_below_them() -> None:
    several = several_shapes({"x": (range(2, 9), [5, 6])}, [3, 8])
    large = {"x": (8, 5)}
    assert several.next_program(large, 2) == {"x": (3, 5)}
    assert several.next_program(large, 4) == large
    assert several.without_program(large) == 7
    assert several.without_program({"x": (3, 6)}) == 2
    assert several_shapes({"x": (range(1, 3),)}).without_program({"x": (2,)}) is None


def test_different_lists_are_combined() -> None:
    several = several_shapes({"x": ([1, 2], [3, 4, 4]), "y": ([4, 3, 4], 9)})
    assert len(several.shapes) == 2 * 2 * 2
    with pytest.raises(UsageError, match="the shapes are 100 in all, an artifact holds 64 at most"):
        several_shapes({"x": (list(range(1, 11)), list(range(11, 21)))})


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="has two ranges"):
        several_shapes({"x": (range(1, 3), range(1, 3))})
    for programs in ([1, 2], [9], [0, 8]):
        with pytest.raises(UsageError, match="give sizes of the range"):
            several_shapes({"x": (range(1, 9),)}, programs)
    with pytest.raises(UsageError, match="give sizes of the range"):
        several_shapes({"x": (1, 2)}, [1])
    assert one_shape({"x": (1, 2)}) == {"x": (1, 2)}
