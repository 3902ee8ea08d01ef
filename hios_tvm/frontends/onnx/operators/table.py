"""Every operator that can be imported, and how it becomes Relax."""

from __future__ import annotations

from collections.abc import Mapping

from hios_tvm.frontends.onnx.operators import (
    control_flow,
    convolution,
    elementwise,
    filling,
    images,
    indexing,
    microsoft,
    normalization,
    padding,
    pooling,
    products,
    quantized,
    recurrent,
    reductions,
    scatter,
    sequences,
    shapes,
    signals,
)
from hios_tvm.frontends.onnx.operators.call import Converter

__all__ = ["CONVERTERS"]

CONVERTERS: Mapping[tuple[str, str], Converter] = {
    ("", name): converter
    for family in (
        control_flow,
        convolution,
        elementwise,
        filling,
        images,
        indexing,
        normalization,
        padding,
        pooling,
        products,
        quantized,
        recurrent,
        reductions,
        scatter,
        sequences,
        shapes,
        signals,
    )
    for name, converter in family.OPERATORS.items()
} | {("com.microsoft", name): converter for name, converter in microsoft.OPERATORS.items()}
"""By domain and name."""
