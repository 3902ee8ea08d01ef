"""Every operator that can be imported, and how it becomes Relax."""

from __future__ import annotations

from collections.abc import Mapping

from hios_tvm.frontends.onnx.operators import (
    arithmetic,
    attention,
    casts,
    control_flow,
    convolution,
    filling,
    images,
    indexing,
    logic,
    microsoft,
    nonlinearities,
    normalization,
    ordering,
    padding,
    pooling,
    products,
    quantized,
    recurrent,
    reductions,
    regions,
    resize,
    scatter,
    sequences,
    shapes,
    signals,
    trigonometry,
)
from hios_tvm.frontends.onnx.operators.call import Converter

CONVERTERS: Mapping[tuple[str, str], Converter] = {
    ("", name): converter
    for family in (
        arithmetic,
        attention,
        casts,
        control_flow,
        convolution,
        filling,
        images,
        indexing,
        logic,
        nonlinearities,
        normalization,
        ordering,
        padding,
        pooling,
        products,
        quantized,
        recurrent,
        reductions,
        regions,
        resize,
        scatter,
        sequences,
        shapes,
        signals,
        trigonometry,
    )
    for name, converter in family.OPERATORS.items()
} | {("com.microsoft", name): converter for name, converter in microsoft.OPERATORS.items()}
"""By domain and name."""
