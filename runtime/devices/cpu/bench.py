"""What measurements are made of: kernels with their tensors, run by the executor and timed."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np

from hios_tvm.runtime.devices.cpu.core_tasks import CpuProgram, core_tasks, program_times
from hios_tvm.runtime.devices.kernel_calls import KernelArg, KernelCall
from hios_tvm.runtime.executor import Executor
from hios_tvm.runtime.memory import Arena, TensorTable, align_up
from hios_tvm.schema.program import Call, Instruction, Signal, Wait

Cores = tuple[int, ...]
Times = list[np.ndarray[Any, np.dtype[np.int64]]]


class Numbers:
    """Memory filled with valid input for every kernel: small random floats, zero integers."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._arenas: list[Arena] = []

    def new(self, dtype: str, nbytes: int) -> int:
        """Return the address of `nbytes` filled bytes."""
        arena = Arena(align_up(nbytes))
        self._arenas.append(arena)
        if nbytes and dtype in ("float32", "float64"):
            view = arena.bytes[:nbytes].view(dtype)
            block = self._random.uniform(0.01, 0.1, min(len(view), 1 << 16)).astype(dtype)
            for start in range(0, len(view), len(block)):
                view[start : start + len(block)] = block[: len(view) - start]
        return arena.address


class ColdMemory:
    """A large region where each weight gets a place that no recent call has read."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._numbers = Numbers()
        self._regions: dict[str, tuple[int, int]] = {}
        self._used = 0

    def place(self, arg: KernelArg) -> int:
        """Return an address for the weight `arg`."""
        need = align_up(arg.nbytes)
        if arg.dtype not in self._regions or self._regions[arg.dtype][1] < need:
            size = max(self._nbytes, 4 * need)
            self._regions[arg.dtype] = (self._numbers.new(arg.dtype, size), size)
        address, size = self._regions[arg.dtype]
        if self._used + need > size:
            self._used = 0
        self._used += need
        return address + self._used - need


class Bench:
    """The tensors of one measurement; weights lie in `cold` memory if there is some."""

    def __init__(self, cold: ColdMemory | None = None) -> None:
        self._cold = cold
        self._numbers = Numbers()
        self._specs: dict[str, tuple[tuple[int, ...], str]] = {}
        self._addresses: dict[str, int] = {}

    def calls(self, call: KernelCall, count: int = 1) -> list[Instruction]:
        """Return `count` runs of `call` that differ in where their weights lie."""
        cold = self._cold is not None
        fixed = [None if cold and arg.role == "weight" else self.tensor(arg) for arg in call.args]
        outputs = sum(arg.role == "output" for arg in call.args)
        steps: list[Instruction] = []
        for _ in range(count):
            pairs = zip(fixed, call.args, strict=True)
            names = tuple(name or self.tensor(arg) for name, arg in pairs)
            steps.append(Call(call.kernel, call.kernel, names, outputs))
        return steps

    def tensor(self, arg: KernelArg) -> str:
        """Return the name of a new tensor."""
        name = f"t{len(self._specs)}"
        self._specs[name] = (arg.shape, arg.dtype)
        if self._cold is not None and arg.role == "weight":
            self._addresses[name] = self._cold.place(arg)
        else:
            self._addresses[name] = self._numbers.new(arg.dtype, arg.nbytes)
        return name

    def run(self, programs: Sequence[CpuProgram], rounds: int, *, warmup: int = 1) -> list[Times]:
        """Run `programs`; return, for each round and program, when each instruction began."""
        tensors = TensorTable(self._specs)
        for name, address in self._addresses.items():
            tensors.place(name, address)
        samples = []
        tasks = core_tasks(programs)
        with closing(Executor(tasks, tensors, memory=(self._numbers, self._cold))) as executor:
            for i in range(warmup + rounds):
                executor.run()
                if i >= warmup:
                    samples.append(program_times(tasks, programs, executor))
        return samples


def barrier(count: int) -> list[list[Instruction]]:
    """Return for each of `count` programs the instructions that let all go on together."""
    return [
        [Signal(i), *(Wait(other) for other in range(count) if other != i)] for i in range(count)
    ]
