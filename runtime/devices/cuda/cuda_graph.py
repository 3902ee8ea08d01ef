"""All work of an artifact's GPUs as one CUDA graph, which the driver starts at once.

That needs an artifact without CPU devices: nothing may wait for a host thread in between.
"""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hios_tvm.runtime.abi import DLTensor, NativeGpuCopy, NativeInstruction, NativeLaunch, Opcode
from hios_tvm.runtime.devices.cuda.feed_streams import GpuTask
from hios_tvm.runtime.devices.cuda.instruction_writer import InstructionWriter
from hios_tvm.runtime.memory import TensorTable
from hios_tvm.runtime.native import Library
from hios_tvm.runtime.tasks import NativeProgram, Team


@dataclass(frozen=True)
class GraphTask:
    """The tasks of all GPUs, captured as one CUDA graph: make it with `captured`.

    One worker launches the graph on the first GPU and waits for its end.

    Attributes
    ----------
    tasks
        What was captured.
    graph, stream : int
        The CUgraphExec, and the CUstream on which it is launched.
    held
        Owners of the memory that the graph uses.
    """

    tasks: Sequence[GpuTask]
    graph: int
    stream: int
    held: list[Any]
    core: int | None = None
    teams: tuple[Team, ...] = ()

    @staticmethod
    def captured(tasks: Sequence[GpuTask], tensors: TensorTable) -> GraphTask:
        """Capture the work of all `tasks`; `tensors` have the addresses that it will use.

        Raises
        ------
        CudaError
            If the driver refuses.
        """
        gpu = tasks[0].gpu
        writers = [InstructionWriter(task, tensors, None) for task in tasks]
        writer_of = {device: writer for writer in writers for device in writer.task.devices}
        steps: list[tuple[GpuTask, NativeInstruction]] = []
        for p, i in tasks[0].order:
            program = tasks[0].programs[p]
            writer = writer_of[program.device]
            writer.add(program, program.instructions[i])  # which loads the kernel, if it is one
            steps += [(writer.task, step) for step in writer.take()]
        stream = gpu.stream()
        graph = gpu.capture(stream, lambda: _issue(stream, writers, steps))
        return GraphTask(tasks, graph, stream, [tensors, [writer.held for writer in writers]])

    def device_of(self, index: int) -> str:
        """Return the GPUs, for messages."""
        return ", ".join(task.label for task in self.tasks)

    @property
    def library(self) -> Library:
        """Has the executor."""
        return self.tasks[0].library

    @property
    def host_events(self) -> Iterable[Hashable]:
        """Streams alone wait for each other."""
        return ()

    def enter(self) -> None:
        """Prepare the worker's thread."""
        self.tasks[0].enter()

    def failure(self, status: int) -> str:
        """Return what is wrong where the driver returned `status`."""
        return self.tasks[0].failure(status)

    def lower(
        self, tensors: TensorTable, events: Mapping[Hashable, int], teams: Mapping[Team, int]
    ) -> NativeProgram:
        """Return the instructions that launch the graph and wait for its end."""
        gpu = self.tasks[0].gpu
        program = (NativeInstruction * 2)(
            NativeInstruction(Opcode.LAUNCH_GRAPH, 0, self.stream, self.graph, 0),
            NativeInstruction(Opcode.SYNCHRONIZE, 0, self.stream, None, 0),
        )
        driver = ctypes.addressof(gpu.driver.native)
        return NativeProgram(program, (None, None), [self], driver, gpu.context)


def _issue(
    stream: int,
    writers: Sequence[InstructionWriter],
    steps: Sequence[tuple[GpuTask, NativeInstruction]],
) -> None:
    """Issue everything: all streams fork from `stream`, and join it at the end."""
    first = writers[0].task.gpu
    driver, fork = first.driver, first.event()
    driver.call("cuEventRecord", fork, stream)
    for writer in writers:
        writer.task.gpu.make_current()
        for handle in writer.streams.values():
            driver.call("cuStreamWaitEvent", handle, fork, 0)
    for task, step in steps:
        task.gpu.make_current()
        _capture(task, step)
    for writer in writers:
        for handle in writer.streams.values():
            join = writer.task.gpu.event()
            driver.call("cuEventRecord", join, handle)
            first.make_current()
            driver.call("cuStreamWaitEvent", stream, join, 0)


def _capture(task: GpuTask, step: NativeInstruction) -> None:
    """Issue an instruction as executor.cc does, into a stream that is being captured."""
    driver = task.gpu.driver
    if step.opcode == Opcode.LAUNCH:
        launch = NativeLaunch.from_address(step.source)
        sizes = (*launch.grid, *launch.block, launch.shared_bytes)
        driver.call("cuLaunchKernel", launch.function, *sizes, step.target, launch.params, None)
    elif step.opcode == Opcode.ENQUEUE_COPY:
        copy = NativeGpuCopy.from_address(step.source)
        ends = [DLTensor.from_address(end).data for end in (copy.destination, copy.source)]
        if copy.source_context == copy.destination_context:
            driver.call("cuMemcpyAsync", *ends, copy.bytes, step.target)
        else:
            contexts = (copy.destination_context, copy.source_context)
            pairs = [value for pair in zip(ends, contexts, strict=True) for value in pair]
            driver.call("cuMemcpyPeerAsync", *pairs, copy.bytes, step.target)
    elif step.opcode == Opcode.RECORD:
        driver.call("cuEventRecord", step.source, step.target)
    else:
        assert step.opcode == Opcode.AWAIT_RECORDED
        driver.call("cuStreamWaitEvent", step.target, step.source, 0)
