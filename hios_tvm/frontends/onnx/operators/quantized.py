"""Quantized tensors and integer products."""

from __future__ import annotations

from collections.abc import Mapping

from hios_tvm.frontends.onnx.operators.call import Converter

__all__ = ["OPERATORS"]

OPERATORS: Mapping[str, Converter] = {}
