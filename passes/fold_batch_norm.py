"""A pass that moves scales per channel into the weights of the convolution before them.

After `SimplifyInference` a batch normalisation is ``conv(x, w) * scale + shift``. This pass makes
it ``conv(x, w * scale) + shift`` and merges shifts: ``(conv + b) * s + t`` becomes
``conv(x, w * s) + (b * s + t)``. Weights must be constant, and nothing but the scale may read the
convolution's result. Weights that can be stored in half precision are left as they are, since their
products with scales cannot.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import Rewriter, constant_value, operator_name, rewrite_main
from hios_tvm.passes.narrow_weights import narrowed

_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")
_SCALES = ("relax.multiply", "relax.divide")
_SHIFTS = ("relax.add", "relax.subtract")


@tvm.transform.module_pass(opt_level=0, name="FoldBatchNorm")
class FoldBatchNorm:
    """Fold multiplications and additions per channel into the convolution before them.

    `half` are the types of half precision that weights are stored in.
    """

    def __init__(self, half: Sequence[str] = ()) -> None:
        self.half = tuple(half)

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        return rewrite_main(mod, partial(_fold, self.half))


def _fold(half: Sequence[str], rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
    name = operator_name(value)
    if name not in _SCALES + _SHIFTS:
        return value
    data, operand = value.args
    if name in ("relax.multiply", "relax.add") and constant_value(operand) is None:
        data, operand = operand, data
    array = _per_channel(operand, data)
    producer = rewriter.producer(data, (*_CONVOLUTIONS, "relax.add"))
    if array is None or producer is None or rewriter.uses(data) != 1:
        return value
    if name in _SHIFTS:
        shifted = _shifted(producer, array if name == "relax.add" else -array)
    else:
        shifted = _scaled(
            half, rewriter, producer, array if name == "relax.multiply" else 1 / array
        )
    if shifted is None:
        return value
    rewriter.absorb(data)
    return shifted


def _per_channel(operand: relax.Expr, data: relax.Expr) -> np.ndarray | None:
    """Return a constant as ``(1, channels or 1, 1, ...)``, or None if it is anything else."""
    array = constant_value(operand)
    if array is None or array.dtype.kind != "f" or not isinstance(data.ty, relax.TensorType):
        return None
    if data.ty.ndim < 2 or array.ndim > data.ty.ndim:
        return None
    array = array.reshape((1,) * (data.ty.ndim - array.ndim) + array.shape)
    return array if array.size == array.shape[1] else None


def _shifted(producer: Call, shift: np.ndarray) -> relax.Expr | None:
    """Return ``producer + shift`` where the producer adds a constant already."""
    if operator_name(producer) != "relax.add":
        return None
    data, operand = producer.args
    array = _per_channel(operand, data)
    return None if array is None else relax.op.add(data, _constant(array + shift))


def _scaled(
    half: Sequence[str], rewriter: Rewriter, producer: Call, scale: np.ndarray
) -> relax.Expr | None:
    """Return ``producer * scale`` as a convolution with other weights, and its shift."""
    if operator_name(producer) in _CONVOLUTIONS:
        return _scaled_convolution(half, producer, scale)
    data, operand = producer.args
    shift = _per_channel(operand, data)
    convolution = rewriter.producer(data, _CONVOLUTIONS)
    if shift is None or convolution is None or rewriter.uses(data) != 1:
        return None
    scaled = _scaled_convolution(half, convolution, scale)
    if scaled is None:
        return None
    rewriter.absorb(data)
    return relax.op.add(rewriter.emit(scaled), _constant(shift * scale))


def _scaled_convolution(half: Sequence[str], convolution: Call, scale: np.ndarray) -> Call | None:
    data, weight = convolution.args
    array = constant_value(weight)
    layout = str(convolution.attrs.kernel_layout)
    if array is None or not layout.startswith("OI") or narrowed(array, half) is not None:
        return None
    factors = scale.reshape((-1,) + (1,) * (array.ndim - 1))
    return Call(convolution.op, [data, _constant(array * factors)], convolution.attrs)


def _constant(array: np.ndarray) -> relax.Expr:
    return relax.const(np.ascontiguousarray(array), array.dtype.name)
