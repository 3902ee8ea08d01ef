"""The legalizations of this package, as `relax.transform.LegalizeOps` takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import tvm
from tvm import relax
from tvm.ir import Call

from hios_tvm.passes.dataflow import operator_name
from hios_tvm.passes.legalize_convolution import legalize_conv2d, legalize_matmul
from hios_tvm.passes.legalize_elementwise import legalize_by_zero, legalize_cast
from hios_tvm.passes.legalize_extremum import legalize_extremum
from hios_tvm.passes.legalize_product import legalize_product
from hios_tvm.passes.legalize_window import legalize_depthwise, legalize_pool
from hios_tvm.passes.legalize_winograd import legalize_winograd

__all__ = ["legalizations"]

_Legalizer = Callable[[relax.BlockBuilder, Call, tvm.target.Target], "relax.Expr | None"]

_LEGALIZERS: Mapping[str, tuple[_Legalizer, ...]] = {
    "relax.astype": (legalize_cast,),
    "relax.divide": (legalize_by_zero,),
    "relax.matmul": (legalize_product,),
    "relax.max": (legalize_extremum,),
    "relax.min": (legalize_extremum,),
    "relax.multiply": (legalize_by_zero,),
    "relax.nn.avg_pool2d": (legalize_pool,),
    "relax.nn.conv2d": (legalize_depthwise, legalize_winograd, legalize_conv2d),
    "relax.nn.max_pool2d": (legalize_pool,),
}


def legalizations(
    target: tvm.target.Target, *, winograd: bool = True
) -> Mapping[str, Callable[[relax.BlockBuilder, Call], relax.Expr]]:
    """Return legalizations for `target`, a CPU's, by operator.

    What none of them takes goes to TVM's own; `winograd` allows Winograd's method.
    """

    with_constant = partial(legalize_matmul, packed={})

    def legalize(builder: relax.BlockBuilder, call: Call) -> relax.Expr:
        name = operator_name(call)
        legalizers = list(_LEGALIZERS[name])
        if name == "relax.matmul":
            legalizers.insert(0, with_constant)
        for legalizer in legalizers:
            if legalizer is legalize_winograd and not winograd:
                continue
            legalized = legalizer(builder, call, target)
            if legalized is not None:
                return legalized
        return call.op.get_attr("FLegalize")(builder, call)

    return dict.fromkeys(_LEGALIZERS, legalize)
