"""A pass that rewrites 1-D and transposed convolutions as 2-D convolutions."""

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main


@tvm.transform.module_pass(opt_level=0, name="OrdinaryConvolutions")
class OrdinaryConvolutions:
    """Rewrite 1-D and transposed convolutions as 2-D convolutions, which have fast kernels.

    A sequence is an image of one row. A transposed convolution of stride s computes s outputs for
    each input: these *phases* become output channels of an ordinary convolution of stride 1, whose
    result is rearranged (pixel shuffle). Weights must be constants.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _rewrite)


def _rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    operator = operator_name(value)
    if operator == "relax.nn.conv2d_transpose":
        return _ordinary(rewriter, value)
    if operator not in ("relax.nn.conv1d", "relax.nn.conv1d_transpose"):
        return value
    layouts = (str(value.attrs.data_layout), str(value.attrs.out_layout))
    weight = constant_value(value.args[1])
    if layouts != ("NCW", "NCW") or weight is None or _converts(value):
        return value
    image = rewriter.emit(relax.op.expand_dims(value.args[0], 2))
    kernel = relax.const(weight[:, :, None, :])
    result = rewriter.emit(_raised(value, image, kernel))
    if operator == "relax.nn.conv1d_transpose":
        result = rewriter.emit(_ordinary(rewriter, rewriter.producer(result)))
    return relax.op.squeeze(result, [2])


def _raised(call: Call, image: relax.Expr, kernel: relax.Expr) -> Call:
    """Return the same convolution of an image of one row."""
    attrs = call.attrs
    before, after = map(int, attrs.padding)
    geometry = {
        "strides": [1, int(attrs.strides[0])],
        "padding": [0, before, 0, after],
        "dilation": [1, int(attrs.dilation[0])],
        "groups": int(attrs.groups),
        "data_layout": "NCHW",
    }
    if operator_name(call) == "relax.nn.conv1d":
        return relax.op.nn.conv2d(image, kernel, kernel_layout="OIHW", **geometry)
    padding = [0, int(attrs.output_padding[0])]
    return relax.op.nn.conv2d_transpose(
        image, kernel, kernel_layout="IOHW", output_padding=padding, **geometry
    )


def _ordinary(rewriter: Rewriter, call: Call) -> relax.Expr:
    """Return a transposed convolution as an ordinary one, rearranged; or `call` itself."""
    attrs = call.attrs
    weight = constant_value(call.args[1])
    layouts = (str(attrs.data_layout), str(attrs.out_layout), str(attrs.kernel_layout))
    if weight is None or layouts != ("NCHW", "NCHW", "IOHW") or _converts(call):
        return call
    strides, groups = [int(step) for step in attrs.strides], int(attrs.groups)
    dilation = [int(step) for step in attrs.dilation]
    before = [int(width) for width in attrs.padding][:2]
    phases = phase_weights(weight, strides=strides, dilation=dilation, groups=groups)
    in_size = [int(extent) for extent in call.args[0].ty.shape][2:]
    batch, channels, *out_size = (int(extent) for extent in call.ty.shape)
    reach = phases.shape[2:]
    # Outputs of each phase; the first ones may belong to the padding, which is cut off
    places = [-(-(o + p) // s) for o, p, s in zip(out_size, before, strides, strict=True)]
    after = [max(0, place - size) for place, size in zip(places, in_size, strict=True)]
    result = rewriter.emit(
        relax.op.nn.conv2d(
            call.args[0],
            relax.const(phases),
            padding=[reach[0] - 1, reach[1] - 1, *after],
            groups=groups,
        )
    )
    sizes = [size + more for size, more in zip(in_size, after, strict=True)]
    split = (batch, groups, *strides, channels // groups, *sizes)
    result = rewriter.emit(relax.op.reshape(result, split))
    result = rewriter.emit(relax.op.permute_dims(result, [0, 1, 4, 5, 2, 6, 3]))
    whole = [size * step for size, step in zip(sizes, strides, strict=True)]
    result = rewriter.emit(relax.op.reshape(result, (batch, channels, *whole)))
    ends = [first + size for first, size in zip(before, out_size, strict=True)]
    return relax.op.strided_slice(result, [2, 3], before, ends)


def phase_weights(
    weight: np.ndarray, *, strides: Sequence[int], dilation: Sequence[int], groups: int
) -> np.ndarray:
    """Return ``(groups * phases * outputs, inputs, height, width)`` of an ordinary convolution.

    `weight` is ``(inputs, outputs of a group, height, width)`` of a transposed one. With stride s,
    the output at ``s q + r`` is the sum over t of the input at ``q - t`` times the weight at
    ``r + s t``: phase r has every s-th weight from r, reversed, after zeros where it has fewer.

    >>> weight = np.arange(3.0).reshape(1, 1, 1, 3)
    >>> phase_weights(weight, strides=(1, 2), dilation=(1, 1), groups=1)[:, 0, 0]
    array([[2., 0.],
           [0., 1.]])
    """
    inputs, outputs, *size = weight.shape
    spread = [(extent - 1) * step + 1 for extent, step in zip(size, dilation, strict=True)]
    reach = [-(-extent // step) for extent, step in zip(spread, strides, strict=True)]
    whole = np.zeros((inputs, outputs, reach[0] * strides[0], reach[1] * strides[1]), weight.dtype)
    whole[:, :, : spread[0] : dilation[0], : spread[1] : dilation[1]] = weight
    # (group, input, output, t, r, t, r) to (group, r, r, output, input, t, t)
    split = whole.reshape(
        groups, inputs // groups, outputs, reach[0], strides[0], reach[1], strides[1]
    )
    moved = split.transpose(0, 4, 6, 2, 1, 3, 5)[..., ::-1, ::-1]
    return np.ascontiguousarray(moved.reshape(-1, inputs // groups, *reach))


def _converts(call: Call) -> bool:
    """Whether the result has another element type than the operands."""
    return str(call.ty.dtype.dtype) != str(call.args[0].ty.dtype.dtype)
