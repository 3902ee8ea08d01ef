"""Every Relay operator that can be imported, and how it becomes Relax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tvm import relax, topi

from hios_tvm.frontends.relay.operators import (
    convolution,
    elementwise,
    images,
    indexing,
    layouts,
    normalization,
    pooling,
    quantized,
    shapes,
)
from hios_tvm.frontends.relay.operators.call import Converter

op = relax.op

# Operators that Relax has by the same name and with the same meaning.
_UNARY = """
    abs acos acosh asin asinh atan atanh bitwise_not ceil cos cosh erf exp floor isfinite isinf
    isnan log logical_not negative rsqrt sigmoid sign sin sinh sqrt tan tanh trunc
"""
_BINARY = """
    add bitwise_and bitwise_or bitwise_xor equal greater greater_equal left_shift less less_equal
    logical_and logical_or logical_xor maximum minimum multiply not_equal power right_shift subtract
"""
_REDUCTIONS = "max mean min prod sum"
_QUANTIZED_UNARY = "abs erf exp log rsqrt sigmoid sqrt tanh"

# Annotations for Relay's own code generation.
_IDENTITIES = """
    annotation.cast_hint annotation.checkpoint annotation.compiler_begin annotation.compiler_end
    annotation.stop_fusion copy device_copy identity on_device
"""


def _for_ranks(
    name: str, converter: Callable[..., Converter], *options: Any
) -> dict[str, Converter]:
    """An operator for each number of spatial axes: ``name1d`` to ``name3d``."""
    return {name.format(rank): converter(rank, *options) for rank in (1, 2, 3)}


OPERATORS: Mapping[str, Converter] = {
    # --- One tensor ---
    **{name: elementwise.unary(getattr(op, name)) for name in _UNARY.split()},
    "fast_erf": elementwise.unary(op.erf),
    "fast_exp": elementwise.unary(op.exp),
    "fast_tanh": elementwise.unary(op.tanh),
    "log10": elementwise.logarithm(10),
    "log2": elementwise.logarithm(2),
    "nn.relu": elementwise.unary(op.nn.relu),
    "round": lambda call: elementwise.round_half_away(call, call.tensor(0)),
    "cast": elementwise.cast,
    "cast_like": elementwise.cast_like,
    "clip": elementwise.clip,
    # --- Two tensors ---
    **{name: elementwise.binary(getattr(op, name)) for name in _BINARY.split()},
    "divide": elementwise.division("quotient", op.divide),
    "floor_divide": elementwise.division("floor", op.floor_divide),
    "floor_mod": elementwise.division("modulus", op.floor_mod),
    "mod": elementwise.division("remainder", op.mod),
    "trunc_divide": elementwise.division("quotient", elementwise.truncated_quotient),
    "trunc_mod": elementwise.division("remainder", op.mod),
    "where": elementwise.where,
    # --- Reductions ---
    **{name: elementwise.reduction(getattr(op, name)) for name in _REDUCTIONS.split()},
    "all": elementwise.bool_reduction(topi.all),
    "any": elementwise.bool_reduction(topi.any),
    "argmax": elementwise.arg_reduction(topi.argmax),
    "argmin": elementwise.arg_reduction(topi.argmin),
    "variance": elementwise.variance,
    # --- Convolutions and matrix products ---
    "nn.batch_matmul": convolution.batch_matmul,
    "nn.bias_add": convolution.bias_add,
    "nn.contrib_conv2d_NCHWc": convolution.convolution(2),
    "nn.contrib_dense_pack": convolution.packed_dense,
    "nn.contrib_depthwise_conv2d_NCHWc": convolution.convolution(2),
    **_for_ranks("nn.conv{}d", convolution.convolution),
    **_for_ranks("nn.conv{}d_transpose", convolution.transposed_convolution),
    "nn.deformable_conv2d": convolution.deformable_convolution,
    "nn.dense": convolution.dense,
    "nn.matmul": convolution.matmul,
    # --- Poolings ---
    "contrib.adaptive_avg_pool2d": pooling.adaptive_pool(2, "avg"),
    "contrib.adaptive_max_pool2d": pooling.adaptive_pool(2, "max"),
    **_for_ranks("nn.adaptive_avg_pool{}d", pooling.adaptive_pool, "avg"),
    **_for_ranks("nn.adaptive_max_pool{}d", pooling.adaptive_pool, "max"),
    **_for_ranks("nn.avg_pool{}d", pooling.average_pool),
    **_for_ranks("nn.global_avg_pool{}d", pooling.global_pool, op.mean),
    **_for_ranks("nn.global_max_pool{}d", pooling.global_pool, op.max),
    **_for_ranks("nn.max_pool{}d", pooling.max_pool),
    # --- Normalizations and activations ---
    "nn.batch_norm": normalization.batch_norm,
    "nn.dropout": normalization.dropout,
    "nn.fast_softmax": normalization.softmax(op.nn.softmax),
    "nn.group_norm": normalization.group_norm,
    "nn.instance_norm": normalization.instance_norm,
    "nn.l2_normalize": normalization.l2_normalize,
    "nn.layer_norm": normalization.layer_norm,
    "nn.leaky_relu": normalization.leaky_relu,
    "nn.log_softmax": normalization.softmax(op.nn.log_softmax),
    "nn.lrn": normalization.local_response_norm,
    "nn.prelu": normalization.prelu,
    "nn.softmax": normalization.softmax(op.nn.softmax),
    # --- Shapes ---
    "broadcast_to": shapes.broadcast_to,
    "broadcast_to_like": shapes.broadcast_to_like,
    "collapse_sum_like": shapes.collapse_sum_like,
    "collapse_sum_to": shapes.collapse_sum_to,
    "concatenate": shapes.concatenate,
    "contrib_reverse_reshape": partial(shapes.reshape, is_reversed=True),
    "einsum": shapes.einsum,
    "expand_dims": shapes.expand_dims,
    "layout_transform": layouts.layout_transform,
    "meshgrid": shapes.meshgrid,
    "nn.batch_flatten": shapes.batch_flatten,
    "nn.batch_to_space_nd": shapes.batch_to_space,
    "nn.depth_to_space": shapes.depth_to_space,
    "nn.mirror_pad": shapes.mirror_pad,
    "nn.pad": shapes.pad,
    "nn.space_to_batch_nd": shapes.space_to_batch,
    "nn.space_to_depth": shapes.space_to_depth,
    "repeat": shapes.repeat,
    "reshape": shapes.reshape,
    "reshape_like": shapes.reshape_like,
    "reverse": shapes.reverse,
    "split": shapes.split,
    "squeeze": shapes.squeeze,
    "stack": shapes.stack,
    "tile": shapes.tile,
    "transpose": shapes.transpose,
    # --- Slices, gathers, scatters ---
    "adv_index": indexing.advanced_index,
    "gather": indexing.gather,
    "gather_nd": indexing.gather_nd,
    "nn.fifo_buffer": indexing.fifo_buffer,
    "one_hot": indexing.one_hot,
    "reverse_sequence": indexing.reverse_sequence,
    "scatter": indexing.scatter("update"),
    "scatter_add": indexing.scatter("add"),
    "scatter_elements": indexing.scatter(None),
    "scatter_nd": indexing.scatter_nd,
    "sequence_mask": indexing.sequence_mask,
    "slice_like": indexing.slice_like,
    "strided_slice": indexing.strided_slice,
    "take": indexing.take,
    "trilu": indexing.triangle,
    "unravel_index": indexing.unravel_index,
    # --- Sorting and scans ---
    "argsort": indexing.argsort,
    "cumprod": indexing.scan(op.cumprod),
    "cumsum": indexing.scan(op.cumsum),
    "sort": indexing.sort,
    "topk": indexing.topk,
    # --- Tensors from nothing ---
    "arange": indexing.arange,
    "full": indexing.full,
    "full_like": indexing.full_like,
    "ndarray_size": indexing.size_constant,
    "ones": indexing.initial(1),
    "ones_like": indexing.initial_like(1),
    "shape_of": indexing.shape_constant,
    "zeros": indexing.initial(0),
    "zeros_like": indexing.initial_like(0),
    # --- Images ---
    "image.affine_grid": images.affine_grid,
    "image.crop_and_resize": images.crop_and_resize,
    "image.grid_sample": images.grid_sample,
    "image.resize": images.resize(2, cubic="bicubic"),
    **_for_ranks("image.resize{}d", images.resize),
    "nn.upsampling": images.upsampling(2),
    "nn.upsampling3d": images.upsampling(3),
    "vision.roi_align": images.roi_align,
    "vision.roi_pool": images.roi_pool,
    # --- Quantized ---
    "fixed_point_multiply": quantized.fixed_point_multiply,
    **{
        f"qnn.{name}": quantized.quantized_unary(getattr(op, name))
        for name in _QUANTIZED_UNARY.split()
    },
    "qnn.add": quantized.quantized_binary(op.add, -1),
    "qnn.batch_matmul": quantized.quantized_batch_matmul,
    "qnn.concatenate": quantized.quantized_concatenate,
    "qnn.conv2d": quantized.quantized_convolution(convolution.convolve, "OIHW"),
    "qnn.conv2d_transpose": quantized.quantized_convolution(
        convolution.convolve_transposed, "IOHW"
    ),
    "qnn.dense": quantized.quantized_dense,
    "qnn.dequantize": quantized.dequantize,
    "qnn.mul": quantized.quantized_multiply,
    "qnn.quantize": quantized.quantize,
    "qnn.requantize": quantized.requantize,
    "qnn.subtract": quantized.quantized_binary(op.subtract, 1),
    # --- Annotations ---
    **dict.fromkeys(_IDENTITIES.split(), elementwise.identity),
}
