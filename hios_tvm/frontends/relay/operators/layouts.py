"""Layouts such as NCHW, HWIO and NCHW16c, and how to get from one to another.

A capital letter is a dimension; a number with a small letter is the inner block of the dimension
of that letter.
"""

import math
import re

from tvm import relax

from hios_tvm.frontends.relay.operators.call import OperatorCall
from hios_tvm.frontends.relay.values import Value
from hios_tvm.frontends.tensors import shape_of

Axis = tuple[str, int]  # a letter, and the size of its block (0 for a capital)


def layout_transform(call: OperatorCall) -> Value:
    source, target = call.attributes.text("src_layout"), call.attributes.text("dst_layout")
    return to_layout(call, call.tensor(0), source, target)


def layout_attribute(call: OperatorCall, name: str, default: str) -> str:
    """A layout with the same dimensions as the default one, perhaps in blocks."""
    layout = call.attributes.text(name, default) or default
    if sorted(plain_layout(layout)) != sorted(plain_layout(default)):
        raise call.unsupported(f"with {name} {layout!r}")
    return layout


def plain_layout(layout: str) -> str:
    """The layout without blocks.

    >>> plain_layout("NCHW16c")
    'NCHW'
    """
    return re.sub(r"\d+[a-z]", "", layout)


def to_layout(call: OperatorCall, tensor: relax.Expr, source: str, target: str) -> relax.Expr:
    """Move a tensor from one layout to another with the same dimensions."""
    axes, goal = _axes(call, source), _axes(call, target)
    sizes = shape_of(tensor)
    if len(axes) != len(sizes):
        raise call.error(f"a tensor of {len(sizes)} dimensions cannot be {source}")
    if source == target:
        return tensor
    letters = [letter for letter, _ in axes if letter.isupper()]
    if sorted(letters) != sorted(letter for letter, _ in goal if letter.isupper()):
        raise call.error(f"{source} and {target} have different dimensions")

    # Blocks back into their dimensions: all parts of a letter beside each other, outer first.
    order = [i for letter in letters for i, (a, _) in enumerate(axes) if a.upper() == letter]
    tensor = call.permute(tensor, order)
    whole = dict.fromkeys(letters, 1)
    for (letter, _), size in zip(axes, sizes, strict=True):
        whole[letter.upper()] *= size
    tensor = call.reshape(tensor, [whole[letter] for letter in letters])

    # Dimensions into the blocks of the target.
    parts: list[Axis] = []
    for letter in letters:
        blocks = [(axis, size) for axis, size in goal if axis == letter.lower()]
        inner = math.prod(size for _, size in blocks)
        if whole[letter] % inner:
            raise call.unsupported(f"with {whole[letter]} of {letter} in blocks of {inner}")
        parts += [(letter, whole[letter] // inner), *blocks]
    tensor = call.reshape(tensor, [size for _, size in parts])
    names = [name for name, _ in parts]
    return call.permute(tensor, [names.index(axis) for axis, _ in goal])


def _axes(call: OperatorCall, layout: str) -> list[Axis]:
    axes = [(axis, int(size or 0)) for size, axis in re.findall(r"(\d*)([A-Za-z])", layout)]
    names = {axis for axis, _ in axes}
    known = all(name.upper() in names for name in names) and len(names) == len(axes)
    if not known or not re.fullmatch(r"([A-Z]|[1-9]\d{0,5}[a-z])+", layout):
        raise call.error(f"{layout!r} is not a layout")
    return axes
