"""Graphs whose optimum is known, since they are cut out of a schedule without gaps."""

import itertools
import random
from dataclasses import dataclass

from hios_tvm.errors import UsageError
from hios_tvm.schema.costs import CostTable, Measurement
from hios_tvm.schema.instance import Instance
from hios_tvm.schema.plain_graph import DEVICE_MODEL, graph_of_edges
from hios_tvm.schema.platform import Platform
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage


@dataclass(frozen=True)
class KnownOptimum:
    """A scheduling problem, a schedule that no other beats, and its makespan."""

    instance: Instance
    schedule: Schedule
    makespan_ms: float


@dataclass(frozen=True)
class _Slot:
    """When and where an operator runs in the schedule without gaps."""

    name: str
    device: int
    start: int
    end: int


def graph_with_known_optimum(
    operators: int, devices: int, *, seed: int, density: float = 0.1
) -> KnownOptimum:
    """Draw a graph with communication whose optimum keeps all devices busy all the time.

    The time from 0 to the makespan, 400 + 4n ms as in the published instances, is cut at random
    whole milliseconds into the operators of each device. Random pairs of operators of which
    one ends before the other starts become edges. Between two devices a transfer takes no longer
    than the time between them; on one device, where no time is paid, it takes up to twice a mean
    operator, which misleads schedulers that expect to pay it. Operators use a device fully, so
    that stages of several gain nothing.

    Parameters
    ----------
    density : float
        Edges over all ``n (n - 1) / 2`` pairs.

    Raises
    ------
    UsageError
        If there are fewer operators than devices, or fewer such pairs than edges.

    References
    ----------
    .. [1] Davidovic and Crainic, "Benchmark-problem instances for static scheduling of task graphs
       with communication delays on homogeneous multiprocessor systems", Computers & Operations
       Research 33 (2006).
    """
    if not 1 <= devices <= operators:
        raise UsageError(
            f"{operators} operators cannot keep {devices} devices busy: each needs at least one"
        )
    rng = random.Random(seed)
    makespan = 400 + 4 * operators
    slots = _slots(operators, devices, makespan, rng)
    edges = _edges(slots, density, rng)
    names = [slot.name for slot in slots]
    rng.shuffle(names)  # the order of operators must not tell the schedule
    length = {slot.name: slot.end - slot.start for slot in slots}
    longest = max(1, 2 * devices * makespan // operators)
    transfer = {}
    for before, after in edges:
        room = after.start - before.end
        ms = rng.randint(0, room) if before.device != after.device else rng.randint(1, longest)
        transfer[before.name, after.name] = Measurement(float(ms))
    instance = Instance(
        graph_of_edges(names, transfer, name=f"known-optimum-{operators}-{devices}-{seed}"),
        CostTable(
            {DEVICE_MODEL: {name: Measurement(float(length[name])) for name in names}},
            transfer=transfer,
        ),
        Platform.uniform(devices),
    )
    return KnownOptimum(instance, _schedule(slots, instance.platform, makespan), float(makespan))


def _slots(operators: int, devices: int, makespan: int, rng: random.Random) -> list[_Slot]:
    """Give each device its share of the operators, one more or less, and cut its time."""
    counts = [operators // devices + (d < operators % devices) for d in range(devices)]
    for _ in range(devices):
        giver, taker = rng.randrange(devices), rng.randrange(devices)
        if counts[giver] > max(1, operators // devices - 1):
            counts[giver] -= 1
            counts[taker] += 1
    slots: list[_Slot] = []
    for device, count in enumerate(counts):
        cuts = [0, *sorted(rng.sample(range(1, makespan), count - 1)), makespan]
        for start, end in itertools.pairwise(cuts):
            slots.append(_Slot(f"v{len(slots)}", device, start, end))
    return slots


def _edges(slots: list[_Slot], density: float, rng: random.Random) -> list[tuple[_Slot, _Slot]]:
    count = round(density * len(slots) * (len(slots) - 1) / 2)
    pairs = [(a, b) for a in slots for b in slots if a.end <= b.start]
    if not 0 <= count <= len(pairs):
        raise UsageError(
            f"{count} edges do not fit: only {len(pairs)} pairs of operators run one after another"
        )
    return rng.sample(pairs, count)


def _schedule(slots: list[_Slot], platform: Platform, makespan: int) -> Schedule:
    return Schedule(
        "construction",
        tuple(
            DeviceSchedule(
                device.name,
                tuple(Stage(((slot.name,),)) for slot in slots if slot.device == d),
            )
            for d, device in enumerate(platform.devices)
        ),
        makespan_ms=float(makespan),
        lower_bound_ms=float(makespan),
    )
