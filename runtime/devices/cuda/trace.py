"""When kernels and copies of GPUs ran: timed events before and after each of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hios_tvm.runtime.devices.cuda.gpu import Gpu
from hios_tvm.runtime.trace import Span, span_of
from hios_tvm.schema.program import Call, Copy, Program


@dataclass(frozen=True)
class Mark:
    """An instruction: record when a stream gets here. `number` is unique among all programs."""

    number: int


@dataclass(frozen=True)
class _TracedStep:
    """A call or copy, and the marks around it."""

    program: Program
    instruction: Call | Copy
    start: Mark
    end: Mark


class GpuTrace:
    """Timed events for the programs of an artifact's GPUs.

    Attributes
    ----------
    programs
        All programs; those of GPUs with marks around each call and copy.
    clocks : device -> CUevent
        What `GpuTask.clock` is to be.
    marks : mark -> CUevent
        What `GpuTask.marks` is to be.
    """

    def __init__(self, programs: Sequence[Program], gpus: Mapping[str, Gpu]) -> None:
        self._gpus = gpus
        self._steps: list[_TracedStep] = []
        numbers = itertools.count()
        self.programs = tuple(
            replace(program, instructions=tuple(self._marked(program, numbers)))
            if program.device in gpus
            else program
            for program in programs
        )
        self.clocks = {name: gpu.event(timing=True) for name, gpu in gpus.items()}
        self.marks = {
            mark.number: gpus[step.program.device].event(timing=True)
            for step in self._steps
            for mark in (step.start, step.end)
        }

    def spans(self, clock_ns: Mapping[str, int], end_ns: int) -> list[Span]:
        """Return when calls and copies ran in the latest run.

        Parameters
        ----------
        clock_ns : device -> int
            When the worker of each GPU saw its clock, in nanoseconds of the host's clock.
        end_ns : int
            When the run had ended. A worker may have woken up late: what seems to end after the
            run is moved back.
        """

        def reached_ns(device: str, mark: Mark) -> int:
            clock, event = self.clocks[device], self.marks[mark.number]
            return clock_ns[device] + int(1e6 * self._gpus[device].elapsed_ms(clock, event))

        spans = [
            span_of(
                step.program,
                step.instruction,
                reached_ns(step.program.device, step.start),
                reached_ns(step.program.device, step.end),
            )
            for step in self._steps
        ]
        late_ns = dict.fromkeys(self._gpus, 0)
        for span in spans:
            late_ns[span.device] = max(late_ns[span.device], span.end_ns - end_ns)
        return [
            replace(
                span,
                start_ns=span.start_ns - late_ns[span.device],
                end_ns=span.end_ns - late_ns[span.device],
            )
            for span in spans
        ]

    def _marked(self, program: Program, numbers: Iterator[int]) -> Iterator[Any]:
        for step in program.instructions:
            if isinstance(step, Call | Copy):
                start, end = Mark(next(numbers)), Mark(next(numbers))
                self._steps.append(_TracedStep(program, step, start, end))
                yield from (start, step, end)
            else:
                yield step
