"""Transposed convolutions that are given by the size of their output."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, helper

__all__ = ["with_explicit_pads"]


def with_explicit_pads(node: NodeProto, data: Sequence[int], weight: Sequence[int]) -> NodeProto:
    """Return a ConvTranspose with ``pads`` in place of ``output_shape``, as the standard has it.

    TVM ignores ``output_shape``.

    Parameters
    ----------
    node : NodeProto
        Returned as it is if it has no ``output_shape``.
    data, weight
        Shapes of the first two inputs.
    """
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    sizes = attributes.pop("output_shape", None)
    if sizes is None:
        return node
    axes = len(data) - 2
    ones, zeros = [1] * axes, [0] * axes
    given = zip(
        data[2:],
        weight[2:],
        list(sizes)[-axes:],
        attributes.get("strides", ones),
        attributes.get("dilations", ones),
        attributes.get("output_padding", zeros),
        strict=True,
    )
    before, after, paddings = [], [], []
    is_upper = attributes.pop("auto_pad", b"NOTSET") == b"SAME_UPPER"
    for size, kernel, wanted, stride, dilation, extra in given:
        total = stride * (size - 1) + extra + (kernel - 1) * dilation + 1 - wanted
        paddings.append(extra + max(0, -total))
        total = max(0, total)
        before.append(total // 2 if is_upper else total - total // 2)
        after.append(total - before[-1])
    attributes |= {"pads": [*before, *after], "output_padding": paddings}
    return helper.make_node(
        node.op_type, node.input, node.output, node.name, domain=node.domain, **attributes
    )
