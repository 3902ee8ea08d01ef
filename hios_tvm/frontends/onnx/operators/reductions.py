"""Reductions along axes, softmax and its kin, positions of extremes, running sums."""

from __future__ import annotations

from collections.abc import Mapping

from hios_tvm.frontends.onnx.operators.call import Converter

__all__ = ["OPERATORS"]

OPERATORS: Mapping[str, Converter] = {}
