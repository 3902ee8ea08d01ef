"""A pass that computes 3-D convolutions as 2-D convolutions of slices.

A volume ``(batch, channels, depth, height, width)`` becomes a batch of images, its slices
``(batch * depth, channels, height, width)``. A window of depth k reads k slices: their channels are
laid side by side, and the convolution has k times as many input channels:

    slices = concat([images[depth d * stride + i * dilation] for i in range(k)], axis=channels)
    conv3d(volume, weight) = conv2d(slices, weight with its depth among the input channels)

Copying k slices costs little beside a convolution of all their channels, and 2-D convolutions have
fast kernels. Element-wise operators between two convolutions take slices too.
"""

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.channels_last import ELEMENTWISE
from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main

_TO_VOLUME = [0, 2, 1, 3, 4]  # of (batch, depth, channels, height, width), and back
_TRANSPOSE, _RESHAPE = "relax.permute_dims", "relax.reshape"


@tvm.transform.module_pass(opt_level=0, name="SliceVolumes")
class SliceVolumes:
    """Rewrite 3-D convolutions whose weights are constants, and what is between them."""

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, _rewrite)


def _rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    name = operator_name(value)
    rewritten = None
    if name == "relax.nn.conv3d":
        rewritten = _convolution(rewriter, value)
    elif name in ELEMENTWISE:
        rewritten = _elementwise(rewriter, value)
    return value if rewritten is None else rewritten


def _convolution(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    attrs = call.attrs
    weight = constant_value(call.args[1])
    layouts = (str(attrs.data_layout), str(attrs.out_layout), str(attrs.kernel_layout))
    if weight is None or layouts != ("NCDHW", "NCDHW", "OIDHW"):
        return None
    if str(call.ty.dtype.dtype) != str(call.args[0].ty.dtype.dtype):
        return None
    front, top, left, back, bottom, right = map(int, attrs.padding)
    outputs, inputs, *window = weight.shape
    stride, dilation = [list(map(int, steps)) for steps in (attrs.strides, attrs.dilation)]
    images = _side_by_side(
        rewriter,
        _slices(rewriter, call.args[0]),
        volumes=_shape(call)[0],
        padding=(front, back),
        window=window[0],
        step=(stride[0], dilation[0]),
        groups=int(attrs.groups),
    )
    # The input channels of a group: those of its first slice, of its second, ...
    flat = weight.transpose(0, 2, 1, 3, 4).reshape(outputs, window[0] * inputs, *window[1:])
    result = relax.op.nn.conv2d(
        images,
        relax.const(np.ascontiguousarray(flat), weight.dtype.name),
        strides=stride[1:],
        padding=[top, left, bottom, right],
        dilation=dilation[1:],
        groups=int(attrs.groups),
    )
    return _volume(rewriter, result, _shape(call))


def _side_by_side(
    rewriter: Rewriter,
    images: relax.Expr,
    *,
    volumes: int,
    padding: tuple[int, int],
    window: int,
    step: tuple[int, int],
    groups: int,
) -> relax.Expr:
    """Return the slices that each window reads, with their channels side by side in each group.

    Parameters
    ----------
    images : relax.Expr
        ``(volumes * depth, channels, height, width)``.
    padding : (int, int)
        Slices of zeros before and after those of each volume.
    window : int
        Slices that a window reads.
    step : (int, int)
        Slices from a window to the next one (stride), and between those of a window (dilation).

    Returns
    -------
    relax.Expr
        ``(volumes * windows, groups * window * channels of a group, height, width)``.
    """
    emit = rewriter.emit
    stride, dilation = step
    depth, channels = _shape(images)[0] // volumes, _shape(images)[1] // groups
    windows = (depth + sum(padding) - (window - 1) * dilation - 1) // stride + 1
    parts = []
    for volume in range(volumes):
        part = images
        if volumes > 1:
            ends = [volume * depth], [(volume + 1) * depth]
            part = emit(relax.op.strided_slice(images, [0], *ends))
        if any(padding):
            part = emit(relax.op.nn.pad(part, [*padding, 0, 0, 0, 0, 0, 0]))
        read = []
        for group in range(groups):
            for i in range(window):
                axes, begin = [0], [i * dilation]
                end, strides = [i * dilation + (windows - 1) * stride + 1], [stride]
                if groups > 1:
                    axes, begin = [0, 1], [*begin, group * channels]
                    end, strides = [*end, (group + 1) * channels], [stride, 1]
                read.append(emit(relax.op.strided_slice(part, axes, begin, end, strides)))
        parts.append(emit(relax.op.concat(read, axis=1)) if len(read) > 1 else read[0])
    return emit(relax.op.concat(parts, axis=0)) if volumes > 1 else parts[0]


def _elementwise(rewriter: Rewriter, call: Call) -> relax.Expr | None:
    """Let an element-wise operator of volumes take the slices of those that convolutions made."""
    if not _is_volume(call) or not any(_made_of(rewriter, arg) is not None for arg in call.args):
        return None
    operands = []
    for arg in call.args:
        array = constant_value(arg)
        if not isinstance(arg.ty, relax.TensorType) or arg.ty.ndim == 0:
            operands.append(arg)
        elif array is not None and array.ndim <= 5:
            array = array.reshape((1,) * (5 - array.ndim) + array.shape)
            if array.shape[0] != 1 or array.shape[2] != 1:
                return None  # not the same for all slices
            operands.append(relax.const(array[:, :, 0], array.dtype.name))
        elif _shape(arg) == _shape(call):
            operands.append(_slices(rewriter, arg))
        else:
            return None
    result = Call(call.op, operands, call.attrs, call.ty_args)
    return _volume(rewriter, result, _shape(call))


def _slices(rewriter: Rewriter, volume: relax.Expr) -> relax.Expr:
    """Return a volume as a batch of images."""
    images = _made_of(rewriter, volume)
    if images is not None:
        return images
    batch, channels, depth, *size = _shape(volume)
    moved = rewriter.emit(relax.op.permute_dims(volume, _TO_VOLUME))
    return rewriter.emit(relax.op.reshape(moved, (batch * depth, channels, *size)))


def _volume(rewriter: Rewriter, images: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
    """Return the volume of `shape` that a batch of images is."""
    batch, channels, depth, *size = shape
    split = relax.op.reshape(rewriter.emit(images), (batch, depth, channels, *size))
    return relax.op.permute_dims(rewriter.emit(split), _TO_VOLUME)


def _made_of(rewriter: Rewriter, volume: relax.Expr) -> relax.Expr | None:
    """Return the images that `_volume` put together, None for any other value."""
    moved = rewriter.producer(volume, (_TRANSPOSE,))
    if moved is None or moved.attrs.axes is None or not _is_volume(volume):
        return None
    split = rewriter.producer(moved.args[0], (_RESHAPE,))
    if split is None or list(map(int, moved.attrs.axes)) != _TO_VOLUME:
        return None
    images = split.args[0]
    batch, channels, depth, *size = _shape(volume)
    return images if _shape(images) == (batch * depth, channels, *size) else None


def _is_volume(value: relax.Expr) -> bool:
    return isinstance(value.ty, relax.TensorType) and value.ty.ndim == 5


def _shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)
