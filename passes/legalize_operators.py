"""The legalizations of this package, as `relax.transform.LegalizeOps` takes them."""

from collections.abc import Callable, Mapping

from tvm import relax
from tvm.ir import Call

from hios_tvm.passes.dataflow import operator_name
from hios_tvm.passes.gelu import legalize_gelu
from hios_tvm.passes.legalize_convolution import legalize_conv2d, legalize_matmul
from hios_tvm.passes.legalize_elementwise import legalize_by_zero, legalize_cast
from hios_tvm.passes.legalize_extremum import legalize_extremum
from hios_tvm.passes.legalize_integer_product import (
    legalize_integer_conv2d,
    legalize_integer_matmul,
)
from hios_tvm.passes.legalize_product import legalize_product
from hios_tvm.passes.legalize_reshape import legalize_reshape
from hios_tvm.passes.legalize_window import legalize_depthwise, legalize_pool

_LEGALIZERS: Mapping[str, tuple[Callable[[relax.BlockBuilder, Call], relax.Expr | None], ...]] = {
    "relax.astype": (legalize_cast,),
    "relax.divide": (legalize_by_zero,),
    "relax.matmul": (legalize_matmul, legalize_integer_matmul, legalize_product),
    "relax.max": (legalize_extremum,),
    "relax.min": (legalize_extremum,),
    "relax.multiply": (legalize_by_zero,),
    "relax.nn.avg_pool2d": (legalize_pool,),
    "relax.nn.conv2d": (legalize_depthwise, legalize_conv2d, legalize_integer_conv2d),
    "relax.nn.gelu": (legalize_gelu,),
    "relax.nn.max_pool2d": (legalize_pool,),
    "relax.reshape": (legalize_reshape,),
}


def _legalize(builder: relax.BlockBuilder, call: Call) -> relax.Expr:
    for legalizer in _LEGALIZERS[operator_name(call)]:
        legalized = legalizer(builder, call)
        if legalized is not None:
            return legalized
    return call.op.get_attr("FLegalize")(builder, call)


LEGALIZATIONS: Mapping[str, Callable[[relax.BlockBuilder, Call], relax.Expr]] = dict.fromkeys(
    _LEGALIZERS, _legalize
)
"""By operator; what none of this package takes goes to TVM's own legalization."""
