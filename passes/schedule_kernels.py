"""The pass that gives every kernel the loops that the rules of one kind of device choose."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
import tvm
from tvm import relax, s_tir, tirx
from tvm.ir import Call, GenericConst, GlobalVar, IRModule

from hios_tvm.errors import CompileError
from hios_tvm.passes.dataflow import Rewrite, Rewriter, constant_value, operator_name, rewrite_main

_OPAQUE = 8  # TVM's kOpaque: later passes must not fuse a kernel that is scheduled
_HAS_LOOPS = {"tirx.is_scheduled": True, "op_pattern": _OPAQUE}

NO_RULE = "hios.no_rule"
"""Attribute of kernels that run with general loops, or with those they came with."""

Packing: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Brings a constant into the layout that a kernel reads. Packings with equal results are equal."""


PREPARES_WEIGHT = "hios.prepares_weight"
"""Attribute of kernels that run once, on a weight, when an artifact is loaded."""


class PackingAtLoad(ABC):
    """A packing whose results are larger: artifacts keep the constant, and pack it when loaded."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Pack a constant, to measure or to test with it."""

    @abstractmethod
    def kernel(self, shape: Sequence[int]) -> tirx.PrimFunc:
        """Return what packs a constant of `shape`: a kernel with loops, `(constant, packed)`."""


@dataclass(frozen=True)
class Scheduled:
    """A kernel with its loops, and how the constants that it reads are packed, by parameter."""

    func: tirx.PrimFunc
    packings: Mapping[int, Packing] = field(default_factory=dict)


class ScheduleRule(Protocol):
    """What knows how to write a kind of kernels."""

    def apply(self, func: tirx.PrimFunc) -> tirx.PrimFunc | Scheduled | None:
        """Return `func` with other loops and the same results, or None if it is not mine.

        A rule may ask for constants among the arguments to be packed.
        """


def has_root_block(func: tirx.PrimFunc) -> bool:
    """Whether `func` is made of blocks that can be scheduled; sorts and scans of TVM are not."""
    body = func.body
    return isinstance(body, s_tir.SBlockRealize) and str(body.block.name_hint) == "root"


def schedule(func: tirx.PrimFunc, rules: Sequence[ScheduleRule]) -> Scheduled:
    """Return what the first rule that takes `func` makes of it, or `func` as it is."""
    results = (rule.apply(func) for rule in (rules if has_root_block(func) else ()))
    result = next((result for result in results if result is not None), None)
    if result is None:
        result = func.with_attr(NO_RULE, True)
    return result if isinstance(result, Scheduled) else Scheduled(result)


@tvm.transform.module_pass(opt_level=0, name="ScheduleKernels")
class ScheduleKernels:
    """Apply to each kernel the first rule that takes it; what none takes stays as it is.

    Constants of `main` that kernels want packed are packed, once for each constant and packing:
    now, or by a call of a kernel with the attribute `PREPARES_WEIGHT` (`PackingAtLoad`).

    Parameters
    ----------
    rules : sequence of ScheduleRule
    left : collection of str
        Names of kernels that no rule is applied to.
    """

    def __init__(self, rules: Sequence[ScheduleRule], left: Collection[str] = ()) -> None:
        self.rules = tuple(rules)
        self.left = frozenset(left)

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        functions: dict[GlobalVar, tirx.PrimFunc | relax.Function] = {}
        packed: dict[GlobalVar, tuple[GlobalVar, Mapping[int, Packing]]] = {}
        for var, func in mod.functions_items():
            if not isinstance(func, tirx.PrimFunc):
                functions[var] = func
                continue
            kernel = schedule(func, () if var.name_hint in self.left else self.rules)
            func = kernel.func.with_attr(_HAS_LOOPS)
            if kernel.packings:  # the type of a variable says what its kernel reads
                old, var = var, relax.BlockBuilder().add_func(func, var.name_hint)
                packed[old] = (var, kernel.packings)
            functions[var] = func
        mod = IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
        return rewrite_main(mod, _packing(packed)) if packed else mod


def _packing(packed: Mapping[GlobalVar, tuple[GlobalVar, Mapping[int, Packing]]]) -> Rewrite:
    """Return what lets calls of kernels call packed ones, with packed constants."""
    known: dict[tuple[GenericConst, Packing], relax.Expr] = {}

    def constant(
        rewriter: Rewriter, kernel: GlobalVar, index: int, value: relax.Expr, packing: Packing
    ) -> relax.Expr:
        array = constant_value(value)
        if array is None:
            raise CompileError(f"kernel {kernel.name_hint!r} packs an argument that is no constant")
        if (value, packing) not in known:
            if isinstance(packing, PackingAtLoad):
                func = packing.kernel(array.shape).with_attr({**_HAS_LOOPS, PREPARES_WEIGHT: True})
                prepare = rewriter.builder.add_func(func, packing.name)
                ty = kernel.ty.params[index]
                known[value, packing] = rewriter.emit(relax.op.call_tir(prepare, [value], ty))
            else:
                known[value, packing] = relax.const(packing(array))
        return known[value, packing]

    def pack(rewriter: Rewriter, value: relax.Expr) -> relax.Expr:
        if operator_name(value) != "relax.call_tir" or value.args[0] not in packed:
            return value
        _, arguments, *rest = value.args
        kernel, packings = packed[value.args[0]]
        fields = list(arguments.fields)
        for index, packing in packings.items():
            fields[index] = constant(rewriter, kernel, index, fields[index], packing)
        args = [kernel, relax.Tuple(fields), *rest]
        return Call(value.op, args, value.attrs, value.ty_args, value.span)

    return pack
