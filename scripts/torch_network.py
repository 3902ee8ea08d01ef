"""The zoo's ONNX networks as PyTorch modules: what `check_cuda.py` compares with.

Convolutions have their batch normalization folded in, so that both sides do the same work.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights


class TorchNetwork(torch.nn.Module):
    """An ONNX network of the operators that the zoo's networks consist of.

    Raises
    ------
    ValueError
        If the network has another operator.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
        self.input_names = [value.name for value in graph.input if value.name not in weights]
        self.output_names = [value.name for value in graph.output]
        self.steps: list[tuple[Callable[..., Tensor], list[str], str]] = []
        for node in _with_folded_norms(graph.node, weights):
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            make = _OPERATORS.get(node.op_type)
            if make is None:
                raise ValueError(f"operator {node.op_type} has no counterpart in this script")
            function, inputs = make(list(node.input), attributes, weights)
            self.steps.append((function, inputs, node.output[0]))
        used = {name for _, inputs, _ in self.steps for name in inputs}
        self.weight_names = sorted(used & weights.keys())
        for i, name in enumerate(self.weight_names):
            self.register_buffer(f"weight{i}", weights[name])

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values = dict(zip(self.input_names, inputs, strict=True))
        values |= {name: getattr(self, f"weight{i}") for i, name in enumerate(self.weight_names)}
        for function, names, output in self.steps:
            values[output] = function(*(values[name] for name in names))
        return [values[name] for name in self.output_names]


def _with_folded_norms(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, Tensor]
) -> list[onnx.NodeProto]:
    """Fold each batch normalization into the convolution before it, if nothing else reads that."""
    readers = [name for node in nodes for name in node.input]
    kept: dict[str, onnx.NodeProto] = {}  # by output
    for node in nodes:
        before = kept.get(node.input[0]) if node.input else None
        is_norm = node.op_type == "BatchNormalization"
        if not is_norm or before is None or before.op_type != "Conv":
            kept[node.output[0]] = node
            continue
        if readers.count(node.input[0]) > 1:
            kept[node.output[0]] = node
            continue
        scale, shift, mean, variance = (weights[name] for name in node.input[1:])
        bias = weights[before.input[2]] if len(before.input) > 2 else None
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        weight = weights[before.input[1]]
        folded = fuse_conv_bn_weights(weight, bias, mean, variance, epsilon, scale, shift)
        names = [f"{node.output[0]}.weight", f"{node.output[0]}.bias"]
        weights.update(zip(names, (value.detach() for value in folded), strict=True))
        convolution = onnx.NodeProto()
        convolution.CopyFrom(before)
        del convolution.input[1:]
        convolution.input.extend(names)
        convolution.output[0] = node.output[0]
        del kept[node.input[0]]
        kept[node.output[0]] = convolution
    return list(kept.values())


Step = tuple[Callable[..., Tensor], list[str]]
"""A function, and the names of its arguments."""


def _convolution(inputs: list[str], attributes: Mapping[str, Any], _: Mapping[str, Tensor]) -> Step:
    begin, end = _halves(attributes.get("pads", (0, 0, 0, 0)))
    function = partial(
        F.conv2d,
        stride=attributes.get("strides", 1),
        dilation=attributes.get("dilations", 1),
        groups=attributes.get("group", 1),
    )
    if begin == end:
        return partial(function, padding=begin), inputs
    pads = (begin[1], end[1], begin[0], end[0])
    return lambda x, *rest: function(F.pad(x, pads), *rest), inputs


def _max_pool(inputs: list[str], attributes: Mapping[str, Any], _: Mapping[str, Tensor]) -> Step:
    begin, end = _halves(attributes.get("pads", (0, 0, 0, 0)))
    pads = (begin[1], end[1], begin[0], end[0])
    pool = partial(
        F.max_pool2d,
        kernel_size=attributes["kernel_shape"],
        stride=attributes.get("strides", 1),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
    )
    if begin == end:
        return partial(pool, padding=begin), inputs
    return lambda x: pool(F.pad(x, pads, value=float("-inf"))), inputs


def _average_pool(
    inputs: list[str], attributes: Mapping[str, Any], _: Mapping[str, Tensor]
) -> Step:
    begin, end = _halves(attributes.get("pads", (0, 0, 0, 0)))
    pads = (begin[1], end[1], begin[0], end[0])
    pool = partial(
        F.avg_pool2d,
        kernel_size=attributes["kernel_shape"],
        stride=attributes.get("strides", 1),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
    )
    counts_pads = bool(attributes.get("count_include_pad", 0))
    if begin == end:
        return partial(pool, padding=begin, count_include_pad=counts_pads), inputs
    if counts_pads:
        return lambda x: pool(F.pad(x, pads)), inputs
    # Shares of the padded windows that are no padding
    return lambda x: pool(F.pad(x, pads)) / pool(F.pad(torch.ones_like(x[:1, :1]), pads)), inputs


def _pad(inputs: list[str], _: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Step:
    begin, end = _halves(weights[inputs[1]].tolist())
    pads = [side for pair in zip(begin[::-1], end[::-1], strict=True) for side in pair]
    value = weights[inputs[2]].item() if len(inputs) > 2 and inputs[2] else 0.0
    return partial(F.pad, pad=pads, value=value), inputs[:1]


def _slice(inputs: list[str], _: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Step:
    starts, ends = (weights[name].tolist() for name in inputs[1:3])
    axes = weights[inputs[3]].tolist() if len(inputs) > 3 else list(range(len(starts)))
    index = [slice(None)] * (max(axes) + 1)
    for axis, start, end in zip(axes, starts, ends, strict=True):
        index[axis] = slice(start, end)
    return lambda x: x[tuple(index)], inputs[:1]


def _norm(inputs: list[str], attributes: Mapping[str, Any], _: Mapping[str, Tensor]) -> Step:
    def function(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean, variance, scale, shift, eps=attributes.get("epsilon", 1e-5))

    return function, inputs


def _dense(inputs: list[str], attributes: Mapping[str, Any], _: Mapping[str, Tensor]) -> Step:
    if not attributes.get("transB") or attributes.get("transA"):
        raise ValueError("Gemm has a counterpart with transB alone")
    return F.linear, inputs


def _plain(function: Callable[..., Tensor]) -> Callable[..., Step]:
    return lambda inputs, attributes, weights: (function, inputs)


def _concatenation(
    inputs: list[str], attributes: Mapping[str, Any], _: Mapping[str, Tensor]
) -> Step:
    return lambda *parts: torch.cat(parts, attributes["axis"]), inputs


def _halves(pads: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return ONNX's padding before and after, one number for each axis."""
    return list(pads[: len(pads) // 2]), list(pads[len(pads) // 2 :])


_OPERATORS: dict[str, Callable[..., Step]] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _norm,
    "Concat": _concatenation,
    "Conv": _convolution,
    "Flatten": _plain(partial(torch.flatten, start_dim=1)),
    "Gemm": _dense,
    "GlobalAveragePool": _plain(partial(F.adaptive_avg_pool2d, output_size=1)),
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "Pad": _pad,
    "Relu": _plain(F.relu),
    "Slice": _slice,
}
