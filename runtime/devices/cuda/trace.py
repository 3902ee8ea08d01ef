"""When kernels and copies of GPUs ran: timed events before and after each of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hios_tvm.runtime.devices.cuda.gpu import Gpu
from hios_tvm.runtime.trace import Span, span_of
from hios_tvm.schema.program import Call, Copy, Instruction, Program, Wait


@dataclass(frozen=True)
class Mark:
    """An instruction: record when a stream gets here. `number` is unique among all programs."""

    number: int


@dataclass(frozen=True)
class _TracedStep:
    """A call or copy, and the marks around it; or a signal or wait, and where it must have been.

    A signal is given right behind the step before it, a wait ends with the start of the step
    behind it: marks of their own would take time.
    """

    program: Program
    instruction: Instruction
    start: Mark
    end: Mark


class GpuTrace:
    """Timed events for the programs of an artifact's GPUs.

    Attributes
    ----------
    programs
        All programs; those of GPUs with marks around each call and copy.
    clocks : index of a GPU -> CUevent
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
        by_index = {gpu.index: gpu for gpu in gpus.values()}
        self.clocks = {index: gpu.event(timing=True) for index, gpu in by_index.items()}
        self.marks = {
            mark.number: gpus[step.program.device].event(timing=True)
            for step in self._steps
            if isinstance(step.instruction, Call | Copy)
            for mark in (step.start, step.end)
        }

    def spans(self, clock_ns: Mapping[int, int], end_ns: int) -> list[Span]:
        """Return when instructions ran in the latest run.

        Parameters
        ----------
        clock_ns : index of a GPU -> int
            When the worker of each GPU saw its clock, in nanoseconds of the host's clock.
        end_ns : int
            When the run had ended. A worker may have woken up late: what seems to end after the
            run is moved back.
        """

        def reached_ns(device: str, mark: Mark) -> int:
            gpu, event = self._gpus[device], self.marks[mark.number]
            elapsed_ms = gpu.elapsed_ms(self.clocks[gpu.index], event)
            return clock_ns[gpu.index] + int(1e6 * elapsed_ms)

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
        waits: list[Wait] = []
        last: Mark | None = None
        for step in program.instructions:
            if isinstance(step, Call | Copy):
                start, end = Mark(next(numbers)), Mark(next(numbers))
                self._steps += [_TracedStep(program, w, last or start, start) for w in waits]
                self._steps.append(_TracedStep(program, step, start, end))
                yield from (start, step, end)
                waits, last = [], end
            else:
                if isinstance(step, Wait):
                    waits.append(step)
                elif last is not None:
                    self._steps.append(_TracedStep(program, step, last, last))
                yield step
