"""Replacing elements at given indices, or reducing others into them."""

from __future__ import annotations

from collections.abc import Mapping

from hios_tvm.frontends import indexing
from hios_tvm.frontends.onnx.operators.call import Converter, OperatorCall, Value
from hios_tvm.frontends.tensors import shape_of

REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}
"""ONNX's names, and Relax's."""


def scatter_elements(call: OperatorCall) -> Value:
    data, indices, updates = (call.tensor(i) for i in range(3))
    axis = call.axis(len(shape_of(data)), default=0)
    return indexing.scatter_elements(call, data, indices, updates, axis, _reduction(call))


def scatter_nd(call: OperatorCall) -> Value:
    data, indices, updates = (call.tensor(i) for i in range(3))
    return indexing.scatter_nd(call, data, indices, updates, _reduction(call))


def _reduction(call: OperatorCall) -> str:
    allowed = ["none"]
    if call.version >= 16:
        allowed += ["add", "mul"]
    if call.version >= 18:
        allowed += ["max", "min"]
    return REDUCTIONS[call.attributes.choice("reduction", allowed, "none")]


OPERATORS: Mapping[str, Converter] = {
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
