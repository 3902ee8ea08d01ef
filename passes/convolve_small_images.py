"""A pass that convolves images before they are enlarged.

A convolution of single pixels can change places with an enlargement, each pixel of which is a sum
of weighted pixels: what is convolved then is smaller. A convolution of concatenated images is a
sum of convolutions::

    y = conv2d(concat((a, enlarged(b))), w)     # becomes
    y = conv2d(a, w[:, :m]) + enlarged(conv2d(b, w[:, m:]))

Networks for segmentation end so. It runs on channels-last images.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import reduce

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, s_tir, te, tirx
from tvm.ir import Call, IRModule, TensorLoad

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main
from hios_tvm.passes.tir_trees import nodes_of, with_values

_INJECTIVE = 2  # TVM's number for kernels that compute each element from some of others

_LEAST_SAVING = 128
"""Multiplications for each element that a convolution must lose to become several: the sum of
their results is written and read again."""


@tvm.transform.module_pass(opt_level=0, name="ConvolveSmallImages")
class ConvolveSmallImages:
    """Let convolutions of single pixels read images before they are enlarged."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _rewrite)


def _rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    weight = _pointwise_weight(value)
    if weight is None:
        return value
    images = _concatenated(rewriter, value.args[0])
    enlargements = [_enlargement(rewriter, image) for image in images]
    pixels = math.prod(_shape(value)[:3])
    saved = sum(
        _shape(call)[3] * (1 - math.prod(_shape(_source(call))[:3]) / pixels)
        for call in enlargements
        if call is not None
    )
    if saved <= (_LEAST_SAVING if len(images) > 1 else 0):
        return value

    def convolved(images: Sequence[relax.Expr], weights: Sequence[np.ndarray]) -> relax.Expr:
        data = images[0] if len(images) == 1 else rewriter.emit(relax.op.concat(images, 3))
        kernel = relax.const(np.ascontiguousarray(np.concatenate(weights, 1)))
        return rewriter.emit(Call(value.op, [data, kernel], value.attrs))

    borders = np.cumsum([_shape(image)[3] for image in images])[:-1]
    parts = list(zip(images, enlargements, np.split(weight, borders, axis=1), strict=True))
    small = [(call, part) for _, call, part in parts if call is not None]
    sources = [convolved([_source(call)], [part]) for call, part in small]
    total = _sum_of_enlarged(rewriter, [call for call, _ in small], sources)
    large = [(image, part) for image, call, part in parts if call is None]
    if not large:
        return total
    return relax.op.add(convolved(*zip(*large, strict=True)), rewriter.emit(total))


def _shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)


def _pointwise_weight(value: relax.Expr) -> np.ndarray | None:
    """Return the constant weight of a convolution of single channels-last pixels."""
    if operator_name(value) != "relax.nn.conv2d":
        return None
    attrs = value.attrs
    weight = constant_value(value.args[1])
    layouts = (str(attrs.data_layout), str(attrs.out_layout), str(attrs.kernel_layout))
    if weight is None or layouts != ("NHWC", "NHWC", "OIHW") or weight.shape[2:] != (1, 1):
        return None
    moves = [*attrs.strides, *attrs.padding, attrs.groups]
    return weight if list(map(int, moves)) == [1, 1, 0, 0, 0, 0, 1] else None


def _concatenated(rewriter: Rewriter, data: relax.Expr) -> list[relax.Expr]:
    """Return the images whose channels are concatenated, or `data` alone."""
    concat = rewriter.producer(data, ("relax.concat",))
    if concat is None or rewriter.uses(data) != 1 or concat.attrs.axis is None:
        return [data]
    along_channels = int(concat.attrs.axis) % 4 == 3
    return list(concat.args[0].fields) if along_channels else [data]


def _enlargement(rewriter: Rewriter, image: relax.Expr) -> Call | None:
    """Return the call of a kernel that computes `image` as weighted sums of fewer pixels."""
    call = rewriter.producer(image, ("relax.call_tir",))
    if call is None or rewriter.uses(image) != 1:
        return None
    source = _source(call)
    if not isinstance(source.ty, relax.TensorType) or source.ty.ndim != 4:
        return None
    is_larger = math.prod(_shape(call)) > math.prod(_shape(source))
    func = rewriter.builder.get()[call.args[0]]
    return call if is_larger and _sums_pixels_of_channels(func) else None


def _source(call: Call) -> relax.Expr:
    return call.args[1].fields[0]


def _sums_pixels_of_channels(func: tirx.PrimFunc) -> bool:
    """Whether each element is a weighted sum of elements of its channel of the first parameter."""
    data = func.params[0]
    block = _only_block(func)
    if block is None:
        return False
    channel = block.iter_vars[-1].var

    def is_weight(expr: tirx.Expr) -> bool:
        return not any(var.same_as(data) or var.same_as(channel) for var in _variables(expr))

    def is_sum(expr: tirx.Expr) -> bool:
        if isinstance(expr, tirx.Add):
            return is_sum(expr.a) and is_sum(expr.b)
        if isinstance(expr, tirx.Mul):
            return is_sum(expr.a) and is_weight(expr.b)
        if not isinstance(expr, TensorLoad) or not expr.source.same_as(data):
            return False
        *pixel, last = expr.indices
        return last.same_as(channel) and all(map(is_weight, pixel))

    return is_sum(block.body.value)


def _variables(expr: tirx.Expr) -> list[tirx.Var]:
    """Return the variables that `expr` reads, and the tensors."""
    loads = nodes_of(expr, TensorLoad)
    return [*nodes_of(expr, tirx.Var), *(load.source for load in loads)]


def _only_block(func: tirx.PrimFunc) -> s_tir.SBlock | None:
    """Return the block of a kernel that writes its last parameter element by element."""
    sch = s_tir.Schedule(func)
    blocks = [sch.get(block) for block in sch.get_child_blocks(sch.get_sblock("root"))]
    if len(blocks) != 1 or blocks[0].init is not None or len(blocks[0].iter_vars) != 4:
        return None
    body, axes = blocks[0].body, [it.var for it in blocks[0].iter_vars]
    if not isinstance(body, tirx.BufferStore) or len(nodes_of(func.body, tirx.BufferStore)) != 1:
        return None
    same = [index.same_as(axis) for index, axis in zip(body.indices, axes, strict=True)]
    return blocks[0] if all(same) else None


def _sum_of_enlarged(
    rewriter: Rewriter, calls: Sequence[Call], images: Sequence[relax.Expr]
) -> relax.Expr:
    """Return the sum of `images`, each enlarged as one of `calls` does it with its own image."""
    functions = [rewriter.builder.get()[call.args[0]] for call in calls]
    operands = [
        [image, *call.args[1].fields[1:]] for call, image in zip(calls, images, strict=True)
    ]

    def interpolated(*tensors: list[te.Tensor]) -> te.Tensor:
        def element(*at: tirx.Var) -> tirx.Expr:
            terms = (_element(*term, at) for term in zip(functions, tensors, strict=True))
            return reduce(operator.add, terms)

        return te.compute((*_shape(calls[0])[:3], _shape(images[0])[3]), element, "interpolated")

    return rewriter.builder.call_te(
        interpolated,
        *operands,
        primfunc_name_hint=calls[0].args[0].name_hint,
        primfunc_attrs={"op_pattern": _INJECTIVE},
    )


def _element(
    func: tirx.PrimFunc, tensors: Sequence[te.Tensor], at: Sequence[tirx.Var]
) -> tirx.Expr:
    """Return the element that `func` computes, of `tensors` in place of its parameters."""
    block = _only_block(func)
    assert block is not None  # _enlargement has looked
    tensor_of = dict(zip(func.params, tensors, strict=False))

    def load(access: TensorLoad) -> tirx.Expr:
        return tensor_of[access.source][tuple(access.indices)]

    value = tvm_ffi.structural_map(block.body.value, [(TensorLoad, load)])
    axes = [it.var for it in block.iter_vars]
    return with_values(value, dict(zip(axes, at, strict=True)))
