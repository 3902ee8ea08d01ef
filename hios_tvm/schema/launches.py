"""How the kernels of a GPU are launched; shapes are fixed, and so is everything about a launch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """One launch of device code.

    Attributes
    ----------
    symbol : str
        Function in the device code.
    grid, block : tuple of three int
        Blocks, and threads of a block: x, y, z.
    shared_bytes : int
        Dynamic shared memory of a block.
    args : tuple of int
        For each parameter of the function the number of the kernel's argument.
    """

    symbol: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int
    args: tuple[int, ...]


@dataclass(frozen=True)
class GpuKernel:
    """Launches of one kernel, in order.

    Attributes
    ----------
    launches
        At least one.
    nbytes : tuple of int
        What each argument of the kernel takes: device code checks no shapes.
    scratch : tuple of int
        The same of tensors that only these launches use; they are arguments behind the others.
    """

    launches: tuple[Launch, ...]
    nbytes: tuple[int, ...]
    scratch: tuple[int, ...] = ()
