"""A pass that makes one convolution of several with one input, and cuts its result."""

from collections import Counter, defaultdict

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, IRModule

from hios_tvm.passes.dataflow import (
    Rewriter,
    bindings,
    constant_value,
    operator_name,
    rewrite_main,
)


@tvm.transform.module_pass(opt_level=0, name="MergeConvolutions")
class MergeConvolutions:
    """Merge convolutions of one tensor that differ in their weights and outputs only.

    The second way of IOS to run a stage: where each convolution alone is too small to keep a
    device busy, a wider one does better, and its slices are copies at most.

    References
    ----------
    .. [1] Ding, Zhu, Jia, Pekhimenko and Han, "IOS: Inter-Operator Scheduler for CNN
       Acceleration", MLSys 2021, section 3.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        groups = mergeable_convolutions(mod)
        place = {
            convolution.args[1]: (i, k)
            for i, group in enumerate(groups)
            for k, convolution in enumerate(group)
        }
        merged: dict[int, relax.Var] = {}

        def rewrite(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
            if operator_name(value) != "relax.nn.conv2d" or value.args[1] not in place:
                return value
            i, k = place[value.args[1]]
            if i not in merged:
                merged[i] = rewriter.emit(_merged(value, groups[i]), uses=len(groups[i]))
            outputs = [int(c.args[1].ty.shape[_output_axis(c)]) for c in groups[i]]
            axis = str(value.attrs.out_layout).index("C")
            start = sum(outputs[:k])
            return relax.op.strided_slice(merged[i], [axis], [start], [start + outputs[k]])

        return rewrite_main(mod, rewrite)


def mergeable_convolutions(mod: IRModule) -> list[list[Call]]:
    """Return the groups of at least two convolutions that can be one."""
    groups: dict[tuple[object, ...], list[Call]] = defaultdict(list)
    values = [binding.value for binding in bindings(mod["main"])]
    convolutions = [value for value in values if operator_name(value) == "relax.nn.conv2d"]
    uses = Counter(value.args[1] for value in convolutions)
    for value in convolutions:
        data, weight = value.args
        if constant_value(weight) is None or value.attrs.groups != 1:
            continue
        if uses[weight] > 1:  # a weight must name its convolution
            continue
        shape = [int(extent) for extent in weight.ty.shape]
        shape[_output_axis(value)] = 0
        groups[(data, str(value.attrs), str(weight.ty.dtype), tuple(shape))].append(value)
    return [group for group in groups.values() if len(group) > 1]


def _merged(first: Call, group: list[Call]) -> Call:
    weights = [constant_value(convolution.args[1]) for convolution in group]
    arrays = [array for array in weights if array is not None]
    weight = relax.const(np.concatenate(arrays, axis=_output_axis(first)))
    return Call(first.op, [first.args[0], weight], first.attrs)


def _output_axis(convolution: Call) -> int:
    return str(convolution.attrs.kernel_layout).index("O")
