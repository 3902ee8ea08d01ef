"""Several inputs in one session: devices work on one while others work on the next.

Each input in flight has a *slot*: memory for all buffers, and events. The programs are the same,
and every worker executes them for one input after another (executor.cc). Proofs of what one run
does hold for each: runs share nothing that is written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from hios_tvm.errors import RunTimeoutError
from hios_tvm.runtime.arguments import Array
from hios_tvm.runtime.executor import DEFAULT_SPIN_US, SLICE_NS, Executor
from hios_tvm.runtime.interface import Interface
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.tasks import Task
from hios_tvm.runtime.turn import Turn

Span = tuple[int, int]
"""Start and end in nanoseconds."""


class PipelineExecutor(Executor):
    """An executor with a slot for each of several tables of tensors.

    A run has the slot of its number; its owner lets one `start` at a time begin, and none before
    the last run of its slot has been finished. Other parameters are those of `Executor`.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        tables: Sequence[TensorTable],
        *,
        memory: object = None,
        spin_us: float = DEFAULT_SPIN_US,
    ) -> None:
        self._started = [0] * len(tables)  # the latest run of each slot
        super().__init__(tasks, tables[0], more=tables[1:], memory=memory, spin_us=spin_us)

    @property
    def next_slot(self) -> int:
        """The slot of the run that is started next."""
        return (self._latest() + 1) % len(self._shared.slots)

    def start(self, held: object = None) -> int:
        """Start a run with the memory `held`, and return its number for `finish`.

        Raises
        ------
        SessionClosedError
            As `require_free`, of the run's slot.
        """
        run = self._latest() + 1
        number = run % len(self._started)
        slot = self._shared.slots[number]
        if self._hangs or slot.stuck:
            self.require_free()
        self.require_open()
        slot.stuck = True
        slot.held = held
        self._started[number] = run
        self._shared.library.dll.hios_start(self._shared.session, False)
        return run

    def finish(self, run: int, timeout: float | None = None) -> None:
        """Wait for the end of `run`, perhaps while others wait; errors are those of `Executor.run`.

        After an error `settle` has to be called.
        """
        slot = self._shared.slot_of(run)
        self._join(run, None if timeout is None else time.monotonic() + timeout)
        slot.stuck = False
        self._raise_failure(slot)

    def settle(self, number: int) -> None:
        """Give up the run in the slot `number` that has not been finished, if there is one.

        It ends when the runs before it have ended, or are given up, too.
        """
        slot, run = self._shared.slots[number], self._started[number]
        if not slot.stuck:
            return
        if run > self._latest():  # it was interrupted before it began
            slot.clear()
            return
        dll, session = self._shared.library.dll, self._shared.session
        dll.hios_abort(session, run)
        before = (run - 1) % len(self._started)
        while self._shared.slots[before].stuck and self._started[before] == run - 1:
            if self._hangs or dll.hios_join(session, run, SLICE_NS):
                break
        if not self._hangs:
            self._give_up(run, None)


@dataclass
class _Begun:
    """A run that begins: its slot, when that is known, its number, and its outputs."""

    number: int | None = None
    run: int = 0
    outputs: dict[str, Array] = field(default_factory=dict)
    start_ns: int = 0
    left_s: float | None = None


class Pipeline:
    """Runs of several threads in one executor.

    Parameters
    ----------
    executor : PipelineExecutor
    interfaces
        Inputs and outputs of each slot.
    lock
        Held while a run begins, so that who holds it sees none begin.
    """

    def __init__(
        self, executor: PipelineExecutor, interfaces: Sequence[Interface], lock: threading.RLock
    ) -> None:
        self._executor = executor
        self._interfaces = tuple(interfaces)
        self._lock = lock
        self._busy = tuple(threading.RLock() for _ in interfaces)
        self._threads: set[int] = set()  # of the runs that are going on
        self._latest = 0
        self._spans: list[Span] = [(0, 0)] * len(interfaces)

    @property
    def runs_in_this_thread(self) -> bool:
        """Whether a run of this thread is going on: then a signal handler asks."""
        return threading.get_ident() in self._threads

    def run(
        self, inputs: Mapping[str, Array], timeout: float | None, out: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Run the model once on what the interface accepted; `Session.run` has the errors.

        The thread must not have a run going on.
        """
        thread, begun = threading.get_ident(), _Begun()
        self._threads.add(thread)
        try:
            self._begin(begun, inputs, timeout, out)
            assert begun.number is not None
            self._executor.finish(begun.run, begun.left_s)
            results = self._interfaces[begun.number].results(begun.outputs, inputs)
            self._spans[begun.number] = begun.start_ns, time.monotonic_ns()
            self._latest = max(self._latest, begun.run)
            return results
        finally:
            if begun.number is not None:
                self._leave(begun.number)
            self._threads.discard(thread)

    def latest(self) -> tuple[int, Span]:
        """Return the slot and the span of the latest run that has ended."""
        self.wait()
        number = self._latest % len(self._spans)
        return number, self._spans[number]

    def wait(self) -> None:
        """Wait until no run is going on; those of this thread itself are not waited for."""
        if self.runs_in_this_thread:
            return
        with self._lock:
            for busy in self._busy:
                with busy:
                    pass

    def _begin(
        self,
        begun: _Begun,
        inputs: Mapping[str, Array],
        timeout: float | None,
        out: Mapping[str, Array],
    ) -> None:
        """Start a run in the next slot, which stays busy until `_leave`."""
        turn = None if timeout is None else Turn(self._lock, timeout)
        with turn or self._lock:
            begun.number = number = self._executor.next_slot
            if not self._busy[number].acquire(timeout=-1 if turn is None else turn.left_s):
                raise RunTimeoutError("other runs took longer than the timeout")
            interface = self._interfaces[number]
            held = interface.place_inputs(inputs)
            begun.outputs = interface.place_outputs(out, inputs.values())
            begun.start_ns = time.monotonic_ns()
            begun.run = self._executor.start((held, begun.outputs))
        begun.left_s = None if turn is None else turn.left_s

    def _leave(self, number: int) -> None:
        """Let others have the slot, if this thread had it: an interrupt may have come before."""
        busy = self._busy[number]
        if busy.acquire(blocking=False):
            self._executor.settle(number)
            busy.release()
            with suppress(RuntimeError):  # it was free
                busy.release()
