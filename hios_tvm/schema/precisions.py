"""What the factors of convolutions and products are rounded to."""

from typing import Literal, get_args

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
"""How devices multiply in convolutions and products; they sum in single precision."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
