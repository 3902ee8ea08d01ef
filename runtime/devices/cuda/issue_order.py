"""The order in which the instructions of all streams are issued, and which workers use an event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hios_tvm.schema.program import Call, Copy, Program, Signal, Wait


@dataclass(frozen=True)
class EventUsers:
    """Who signals an event, and who else waits for it: GPUs, and other devices.

    A GPU is one user, whatever parts of it are devices: one worker feeds all their streams.
    """

    source: str
    waiting: tuple[str, ...]

    @property
    def from_gpu(self) -> bool:
        """Whether a CUDA stream signals it."""
        return _is_gpu(self.source)

    @property
    def to_host(self) -> bool:
        """Whether a worker waits for it that feeds no GPU."""
        return not all(map(_is_gpu, self.waiting))

    @property
    def to_other_gpu(self) -> bool:
        """Whether another GPU waits for it."""
        return any(map(_is_gpu, self.waiting))


def _is_gpu(user: str) -> bool:
    return user.startswith("cuda")


def event_users(programs: Sequence[Program], gpu_of: Mapping[str, str]) -> dict[int, EventUsers]:
    """Return the users that each event connects; `gpu_of` has the GPU of devices that are on one.

    >>> half, other = Program("cuda:0.0/2", 0, (Signal(0),)), Program("cuda:0.1/2", 0, (Wait(0),))
    >>> event_users([half, other], {"cuda:0.0/2": "cuda:0", "cuda:0.1/2": "cuda:0"})
    {0: EventUsers(source='cuda:0', waiting=())}
    """
    source: dict[int, str] = {}
    waiting: dict[int, list[str]] = {}
    for program in programs:
        user = gpu_of.get(program.device, program.device)
        for step in program.instructions:
            if isinstance(step, Signal):
                source[step.event] = user
            elif isinstance(step, Wait):
                waiting.setdefault(step.event, []).append(user)
    return {
        event: EventUsers(
            user, tuple(dict.fromkeys(other for other in waiting.get(event, ()) if other != user))
        )
        for event, user in source.items()
    }


def issue_order(programs: Sequence[Program]) -> list[tuple[int, int]]:
    """Return all instructions as (program, index in it), each wait after its signal.

    Workers that keep this order never wait for each other in a cycle. Programs take turns after
    each kernel or copy, so that no stream runs dry while another one is fed.

    >>> first = Program("cuda:0", 0, (Call("a", "k", ("x", "y")), Signal(0)))
    >>> second = Program("cuda:0", 1, (Wait(0), Call("b", "k", ("y", "z"))))
    >>> issue_order([second, first])
    [(1, 0), (1, 1), (0, 0), (0, 1)]
    """
    order: list[tuple[int, int]] = []
    position = [0] * len(programs)
    signalled: set[int] = set()
    remaining = sum(len(program.instructions) for program in programs)
    while len(order) < remaining:
        for p, program in enumerate(programs):
            while position[p] < len(program.instructions):
                step = program.instructions[position[p]]
                if isinstance(step, Wait) and step.event not in signalled:
                    break
                if isinstance(step, Signal):
                    signalled.add(step.event)
                order.append((p, position[p]))
                position[p] += 1
                following = program.instructions[position[p] : position[p] + 1]
                if isinstance(step, Call | Copy) and not isinstance(
                    next(iter(following), None), Signal
                ):
                    break
    return order
