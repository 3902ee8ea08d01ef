from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from hios_tvm.report.layout import layered_layout

GRAPHS = st.integers(1, 20).flatmap(
    lambda count: st.tuples(
        st.just([str(i) for i in range(count)]),
        st.lists(
            st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
            .filter(lambda pair: pair[0] < pair[1])
            .map(lambda pair: (str(pair[0]), str(pair[1]))),
            max_size=40 if count > 1 else 0,
        ),
    )
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(GRAPHS)
def test_boxes_are_apart_and_edges_go_down(graph: tuple[list[str], list[tuple[str, str]]]) -> None:
    nodes, edges = graph
    layout = layered_layout(nodes, edges)
    assert layout.position.keys() == set(nodes)
    assert all(-1e-9 <= x <= layout.width + 1e-9 for x, _ in layout.position.values())
    assert all(0 <= y < layout.height for _, y in layout.position.values())
    places = sorted((y, x) for x, y in layout.position.values())
    assert all(a[0] < b[0] or b[1] - a[1] > 1 - 1e-9 for a, b in pairwise(places))
    for src, dst in edges:
        route = layout.route[src, dst]
        assert (route[0], route[-1]) == (layout.position[src], layout.position[dst])
        assert all(below[1] == above[1] + 1 for above, below in pairwise(route))
        for point in route[1:-1]:  # an edge bends around boxes
            others = [p for p in layout.position.values() if p[1] == point[1]]
            assert all(abs(point[0] - x) > 0.6 - 1e-9 for x, _ in others)


def test_branches_do_not_cross() -> None:
    """
     a        The branches b-d and c-e stay side by side.
    b c
    d e
     f
    """
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "e"), ("d", "f"), ("e", "f")]
    place = layered_layout(list("abcedf"), edges).position
    assert (place["b"][0] < place["c"][0]) == (place["d"][0] < place["e"][0])
    assert place["a"][0] == place["f"][0]
    assert [place[name][1] for name in "abcdef"] == [0, 1, 1, 2, 2, 3]


def test_what_needs_nothing_stands_right_above_its_consumer() -> None:
    place = layered_layout(list("abxc"), [("a", "b"), ("b", "c"), ("x", "c")]).position
    assert place["x"][1] == place["b"][1] == 1
