"""Products of 8-bit integers in vectors, summed exactly with 32 bits.

A step multiplies some neighbouring input channels of one pixel, which all lanes share, with the
weights of as many output channels as a vector has lanes::

    sums[lane] += sum(image[pixel, channel + i] * weight[lane, i] for i in range(inputs))

How many channels it takes is the CPU's choice: 4 with VNNI, which has an instruction for a step of
``uint8`` and ``int8``; 2 with AVX2, which has one for ``int16``; else 1. Its other instruction for
8 bits adds two products with 16 bits, which saturates, and gives wrong sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from tvm import tirx
from tvm.tirx import Broadcast, BufferLoad

from hios_tvm.passes.cpu_rules.loop_nest import Index, as_index, vector_index

IntegerInstruction: TypeAlias = Literal["vnni", "madd", "none"]
"""What a CPU multiplies integers with: VNNI, AVX2's for 16 bits, or as LLVM finds best."""

_INPUTS: dict[IntegerInstruction, int] = {"vnni": 4, "madd": 2, "none": 1}
_WEIGHTS: dict[IntegerInstruction, str] = {"vnni": "int32", "madd": "int32", "none": "int16"}


@dataclass(frozen=True)
class IntegerSteps:
    """The steps of sums of `lanes` elements.

    Weights of a step are one element in memory for each lane: those of several channels are the
    bytes of an ``int32``.
    """

    instruction: IntegerInstruction
    lanes: int

    @property
    def inputs(self) -> int:
        """Input channels of a step."""
        return _INPUTS[self.instruction]

    @property
    def weight_dtype(self) -> str:
        """The element type of the weights of a step."""
        return _WEIGHTS[self.instruction]

    @property
    def sum_dtype(self) -> str:
        """The element type of sums."""
        return "int32"

    def packed(self, weights: np.ndarray) -> np.ndarray:
        """Return ``int8`` weights ``(..., inputs, outputs)`` as ``(..., steps, outputs)``.

        >>> weights = np.arange(8, dtype="int8").reshape(4, 2)
        >>> packed = IntegerSteps("vnni", 16).packed(weights)
        >>> packed.shape, packed.view("int8")[0]
        ((1, 2), array([0, 2, 4, 6, 1, 3, 5, 7], dtype=int8))
        """
        if self.instruction == "none":
            return weights.astype(np.int16)
        *outer, inputs, outputs = weights.shape
        stored = weights if self.instruction == "vnni" else weights.astype(np.int16)
        split = stored.reshape(*outer, inputs // self.inputs, self.inputs, outputs)
        moved = np.ascontiguousarray(np.moveaxis(split, -2, -1))
        return moved.view(np.int32)[..., 0]

    def values(self, image: tirx.Var, pixel: list[Index], channel: Index) -> tirx.Expr:
        """Return a step's channels of a pixel of ``uint8``, from `channel`, for all lanes."""
        loaded = BufferLoad(image, [*pixel, vector_index(as_index(channel), self.inputs)])
        if self.instruction == "none":
            return Broadcast(tirx.Cast("int32", loaded), self.lanes)
        if self.instruction == "madd":
            loaded = tirx.Cast("int16x2", loaded)
        whole = Broadcast(tirx.reinterpret("int32", loaded), self.lanes)
        kind = "uint8" if self.instruction == "vnni" else "int16"
        return tirx.reinterpret(f"{kind}x{self.lanes * self.inputs}", whole)

    def added(self, sums: tirx.Expr, values: tirx.Expr, weights: tirx.Expr) -> tirx.Expr:
        """Return a vector of `sums` with the products of a step added."""
        dtype = f"int32x{self.lanes}"
        if self.instruction == "vnni":
            factors = tirx.reinterpret(f"int8x{self.lanes * 4}", weights)
            name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
            return tirx.call_llvm_pure_intrin(dtype, name, sums, values, factors)
        if self.instruction == "madd":
            factors = tirx.reinterpret(f"int16x{self.lanes * 2}", weights)
            name = _MADD[self.lanes]
            return sums + tirx.call_llvm_pure_intrin(dtype, name, values, factors)
        return sums + values * tirx.Cast(dtype, weights)


_MADD = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
