"""Problems of placement for tests, and all placements of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from hypothesis import strategies as st

from hios_tvm.errors import ScheduleError
from hios_tvm.schedulers.throughput import (
    ThroughputDevice,
    ThroughputOperator,
    ThroughputProblem,
    device_loads_ms,
)
from hios_tvm.schedulers.throughput_search import ThroughputOptions

QUICK = ThroughputOptions(moves=400, rounds=2)


@st.composite
def problems(draw: st.DrawFn, max_operators: int = 6, limits: bool = True) -> ThroughputProblem:
    """Two kinds of devices, the second the host's; some operators run on one kind only."""
    count = draw(st.integers(1, max_operators))
    times = st.integers(1, 9).map(float)
    operators = []
    for v in range(count):
        one, other = draw(times), draw(times)
        if limits and draw(st.integers(0, 5)) == 0:
            one = math.inf
        colour = draw(st.sampled_from([None, None, "red"]))
        operators.append(
            ThroughputOperator(f"v{v}", (one, other), draw(times) / 4, draw(times), colour)
        )
    pairs = list(itertools.combinations(range(count), 2))
    edges = tuple(pair for pair in pairs if draw(st.booleans()))
    nbytes = draw(st.sampled_from([math.inf, 20.0])) if limits else math.inf
    accelerators = [ThroughputDevice(f"a{i}", 0, nbytes) for i in range(draw(st.integers(1, 2)))]
    return ThroughputProblem(
        tuple(operators), edges, (*accelerators, ThroughputDevice("host", 1, is_host=True))
    )


def placements(problem: ThroughputProblem) -> Iterator[tuple[float, tuple[int, ...]]]:
    """All that keep to the rules, with their intervals."""
    places = range(len(problem.devices))
    for device_of in itertools.product(places, repeat=len(problem.operators)):
        try:
            yield max(device_loads_ms(problem, device_of)), device_of
        except ScheduleError:
            continue
