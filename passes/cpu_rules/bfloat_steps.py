"""Products of bfloat16 numbers in vectors, summed in single precision.

A step multiplies two neighbouring input channels of one pixel, which all lanes share, with the
weights of as many output channels as a vector has lanes::

    sums[lane] += image[pixel, channel] * weight[lane, 0]
                  + image[pixel, channel + 1] * weight[lane, 1]

AVX512-BF16 has an instruction for that, and one that rounds a vector to bfloat16. TVM 0.27 computes
with bfloat16 as with single precision, and has no way around that: so numbers of this type are
their bits (``uint16``), and the instructions are functions in LLVM's language, which LLVM puts
in the place of their calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from tvm import tirx
from tvm.tirx import Broadcast, BufferLoad

from hios_tvm.passes.cpu_rules.loop_nest import Index, as_index, vector_index

_DOT = "hios_bfloat_dot"
_ROUND = "hios_bfloat_round"

_DOT_CODE = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @{name}(<16 x float> %sums, <16 x i32> %values, <16 x i32> %weights) {{
  %v = bitcast <16 x i32> %values to <32 x bfloat>
  %w = bitcast <16 x i32> %weights to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sums, \
<32 x bfloat> %v, <32 x bfloat> %w)
  ret <16 x float> %r
}}
"""
_ROUND_CODE = """
define {i16} @{name}({float} %numbers) {{
  %r = fptrunc {float} %numbers to {bfloat}
  %bits = bitcast {bfloat} %r to {i16}
  ret {i16} %bits
}}
"""


@dataclass(frozen=True)
class BfloatSteps:
    """The steps of sums of a vector of AVX-512.

    Weights of a step are one ``int32`` in memory for each lane: those of the first channel are its
    lower half.
    """

    lanes = 16
    inputs = 2
    weight_dtype = "int32"
    sum_dtype = "float32"

    def packed(self, weights: np.ndarray) -> np.ndarray:
        """Return weights ``(..., inputs, outputs)``, rounded, as ``(..., steps, outputs)``.

        The weights of a channel behind an odd number of them are zero.

        >>> weights = np.array([[1.0, 3.0], [2.0, 4.0]], "float32")
        >>> BfloatSteps().packed(weights).view("uint16").view(ml_dtypes.bfloat16)
        array([[1, 2, 3, 4]], dtype=bfloat16)
        """
        *outer, inputs, outputs = weights.shape
        steps = -(-inputs // self.inputs)
        rounded = np.zeros((*outer, steps * self.inputs, outputs), ml_dtypes.bfloat16)
        rounded[..., :inputs, :] = weights
        split = rounded.reshape(*outer, steps, self.inputs, outputs)
        moved = np.ascontiguousarray(np.moveaxis(split, -2, -1))
        return moved.view(np.int32)[..., 0]

    def values(self, image: tirx.Var, pixel: list[Index], channel: Index) -> tirx.Expr:
        """Return a step's channels of a pixel of bits, from `channel`, for all lanes."""
        loaded = BufferLoad(image, [*pixel, vector_index(as_index(channel), self.inputs)])
        return Broadcast(tirx.reinterpret("int32", loaded), self.lanes)

    def added(self, sums: tirx.Expr, values: tirx.Expr, weights: tirx.Expr) -> tirx.Expr:
        """Return a vector of `sums` with the products of a step added."""
        return tirx.call_pure_extern(f"float32x{self.lanes}", _DOT, sums, values, weights)


def rounded(image: tirx.Var, place: list[Index], lanes: int) -> tirx.Expr:
    """Return the bits of `lanes` elements of `image`, rounded to bfloat16 (to even)."""
    loaded = BufferLoad(image, place)
    dtype = "uint16" if lanes == 1 else f"uint16x{lanes}"
    return tirx.call_pure_extern(dtype, f"{_ROUND}{lanes}", loaded)


IMPORT = "pragma_import_llvm"
"""TVM's attribute of statements that call such functions."""


def instructions(channels: int) -> str:
    """Return the functions that a kernel calls whose pixels have so many channels.

    They are one line, as TVMScript has no text of several.
    """
    lengths = {BfloatSteps.lanes, channels % BfloatSteps.lanes} - {0}
    functions = [_DOT_CODE.format(name=_DOT)]
    functions += [_rounding_code(lanes) for lanes in sorted(lengths)]
    return " ".join("".join(functions).split())


def _rounding_code(lanes: int) -> str:
    elements = ("float", "bfloat", "i16")
    types = {name: name if lanes == 1 else f"<{lanes} x {name}>" for name in elements}
    return _ROUND_CODE.format(name=f"{_ROUND}{lanes}", **types)
