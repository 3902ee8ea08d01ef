"""How a GPU runs a kernel: the functions of a code object to launch, in order."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GPUKernel", "Launch"]

Dimensions = tuple[int, int, int]


@dataclass(frozen=True)
class Launch:
    """One launch of a function on a GPU.

    Attributes
    ----------
    function : str
        Symbol in the device's code object.
    grid, block : (int, int, int)
        Blocks of the grid and threads of a block, x first.
    shared_bytes : int
        Dynamic shared memory of a block.
    args : tuple of int
        What each parameter points to: argument i of the kernel, or, from ``len(arguments)`` on,
        its workspaces.
    """

    function: str
    grid: Dimensions
    block: Dimensions
    shared_bytes: int
    args: tuple[int, ...]


@dataclass(frozen=True)
class GPUKernel:
    """The launches of one kernel, in order, and the bytes of the workspaces they share."""

    launches: tuple[Launch, ...]
    workspaces: tuple[int, ...] = ()
