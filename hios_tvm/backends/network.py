"""A lowered model: one operator graph, and kernels with loops for each kind of device."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule
from tvm.target import Target

from hios_tvm.backends import BACKENDS, kind_of_target
from hios_tvm.backends.cpu.codegen import kernel_key
from hios_tvm.backends.cpu.targets import parse_target
from hios_tvm.backends.cpu.tuned_kernels import TunedChoice, choose_again
from hios_tvm.backends.precisions import precision_of
from hios_tvm.errors import ScheduleError
from hios_tvm.passes.apply_traces import apply_traces
from hios_tvm.passes.canonicalize_operators import (
    NUM_INPUT,
    CanonicalizeOperators,
    name_constants,
    prepared_weights,
)
from hios_tvm.passes.dataflow import bindings
from hios_tvm.passes.dump_ir import DumpIR
from hios_tvm.passes.extract_operator_graph import extract_operator_graph
from hios_tvm.passes.pipeline import Progress, lower_to_kernels, run_passes
from hios_tvm.runtime.devices import HOST, kind_of
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.manifest import PreparedWeight
from hios_tvm.schema.recipe import Recipe

Choose: TypeAlias = Callable[[IRModule, IRModule, Target], TunedChoice]
"""Takes kernels before and after the rules of a CPU, and its target."""


@dataclass(frozen=True)
class Lowered:
    """The network for one kind of device.

    `mod` has kernels with their loops, and a `main` whose weights are parameters; `graph` is read
    off it. Networks of other kinds have the same operators, whose weights may be packed otherwise.
    """

    target: Target
    mod: IRModule
    graph: OperatorGraph

    @property
    def prepared(self) -> tuple[PreparedWeight, ...]:
        """The weights among the graph's that kernels compute from `Network.weights`."""
        return prepared_weights(self.mod)


@dataclass(frozen=True, repr=False)
class Network:
    """A lowered model.

    Attributes
    ----------
    kernels : IRModule
        The module before kernels got their loops, which is the same for all devices.
    lowered : mapping
        One form for each kind of device, by the kind.
    weights : mapping
        Weights of all forms by name, before any is prepared. One name is one array, whichever
        forms read it.
    tuned : TunedChoice
        Which kernels of CPUs got their loops from a search.
    recipe : Recipe
        How the network was lowered; `lower_by_recipe` does it again.
    """

    kernels: IRModule
    lowered: Mapping[str, Lowered]
    weights: Mapping[str, np.ndarray]
    recipe: Recipe
    tuned: TunedChoice = field(default_factory=TunedChoice)

    @property
    def graph(self) -> OperatorGraph:
        """The operators, with the weights of the first kind of device."""
        return next(iter(self.lowered.values())).graph

    @property
    def host(self) -> Target:
        """The target of the CPU that runs the program."""
        first = next(iter(self.lowered.values())).target
        return self.lowered[HOST].target if HOST in self.lowered else first.host

    def __repr__(self) -> str:
        mib = sum(array.nbytes for array in self.weights.values()) / 2**20
        return (
            f"<Network {self.graph.name}: {len(self.graph.operators)} operators, {mib:.1f} MiB of "
            f"weights for {', '.join(self.lowered)}>"
        )

    def on(self, device: str) -> Lowered:
        """Return the form for the device called `device`.

        Raises
        ------
        ScheduleError
            If the network was not lowered for this kind of device.
        """
        kind = kind_of(device).kind
        if kind not in self.lowered:
            raise ScheduleError(f"the network has no kernels for {device!r}")
        return self.lowered[kind]

    def kernels_on(self, device: str, operators: Collection[str]) -> IRModule:
        """Return the kernels that `operators` call on `device`, and those of their weights."""
        form = self.on(device)
        called = [form.graph.operator[name] for name in operators]
        read = {name for operator in called for name in operator.inputs}
        names = {operator.kernel for operator in called}
        names |= {weight.kernel for weight in form.prepared if weight.name in read}
        return IRModule({name: form.mod[name] for name in sorted(names)})

    def placed(self, placement: Mapping[str, str]) -> IRModule:
        """Return `main` whose calls read the weights of the devices that `placement` names.

        Parameters
        ----------
        placement : mapping
            From operators to devices. The module holds the kernels of the first form alone.
        """
        forms = {id(form): form for form in map(self.on, placement.values())}
        if len(forms) <= 1:
            return next(iter(forms.values()), next(iter(self.lowered.values()))).mod
        return _merged(self, placement)


def lower(
    mod: IRModule,
    target: Target,
    *,
    merge_convolutions: bool = False,
    dump_dir: Path | None = None,
) -> IRModule:
    """Return the network as a dataflow block of calls of kernels with loops for `target`.

    Parameters and errors are those of `lower_to_kernels`.
    """
    kernels = _kernels(mod, [target], merge_convolutions, dump_dir)
    return _with_loops(kernels, target, dump_dir=dump_dir)


def lower_network(
    mod: IRModule,
    *targets: str | Target,
    name: str = "model",
    merge_convolutions: bool = False,
    dump_dir: Path | None = None,
    choose: Choose | None = None,
    progress: Progress = lambda done, total: None,
) -> Network:
    """Lower a frontend's module for each kind of device that `targets` has.

    `choose` says which kernels of CPUs get the loops of a trace instead of those of the rules
    (`choose_tuned`). `merge_convolutions` makes one of several convolutions with one input.
    """
    parsed = [parse_target(given) if isinstance(given, str) else given for given in targets]
    kernels = _kernels(mod, parsed, merge_convolutions, dump_dir, progress)
    tuned = TunedChoice()
    lowered: dict[str, Lowered] = {}
    constants: dict[GenericConst, str] = {}
    for target in parsed:
        kind = kind_of_target(target)
        form = _with_loops(kernels, target, dump_dir=dump_dir)
        if choose is not None and kind == HOST:
            tuned = choose(kernels, form, target)
            form = _with_traces(kernels, form, target, tuned.traces)
        constants |= name_constants(form, constants)
        canonical = apply_pass(CanonicalizeOperators(constants), form)
        lowered[kind] = Lowered(target, canonical, extract_operator_graph(canonical, name))
    weights = {name: constant.value.numpy() for constant, name in constants.items()}
    recipe = Recipe(
        targets={kind: str(form.target) for kind, form in lowered.items()},
        precision=precision_of(*(form.target for form in lowered.values())),
        merge_convolutions=merge_convolutions,
        traces={
            kernel_key(kernels[kernel], lowered[HOST].target): trace
            for kernel, trace in tuned.traces.items()
        },
        dtypes=_element_types(mod),
    )
    return Network(kernels, lowered, weights, recipe, tuned)


def lower_by_recipe(mod: IRModule, recipe: Recipe, *, name: str = "model") -> Network:
    """Lower a module as another one was: the same model again, or a part of it.

    Kernels that both have in common get the same code.
    """
    return lower_network(
        mod,
        *(Target(json.loads(text)) for text in recipe.targets.values()),
        name=name,
        merge_convolutions=recipe.merge_convolutions,
        choose=partial(choose_again, traces=recipe.traces) if recipe.traces else None,
    )


def _kernels(
    mod: IRModule,
    targets: Sequence[Target],
    merge_convolutions: bool,
    dump_dir: Path | None,
    progress: Progress = lambda done, total: None,
) -> IRModule:
    """Lower to kernels that all `targets` have rules for."""
    kinds = {kind_of_target(target): target for target in targets}
    alone = [BACKENDS[kind].own_passes(target) for kind, target in kinds.items()]
    return lower_to_kernels(
        mod,
        merge_convolutions=merge_convolutions,
        for_cpus=kinds.keys() == {HOST},
        own_passes=alone[0] if len(alone) == 1 else (),
        dump_dir=dump_dir,
        progress=progress,
    )


def _element_types(mod: IRModule) -> tuple[str, ...]:
    """Return the types of all tensors of a frontend's module, sorted."""
    main = mod["main"]
    types = [var.ty for var in (*main.params, *(binding.var for binding in bindings(main)))]
    return tuple(sorted({str(ty.dtype) for ty in types if isinstance(ty, relax.TensorType)}))


def _with_loops(
    kernels: IRModule, target: Target, left: Collection[str] = (), dump_dir: Path | None = None
) -> IRModule:
    kind = kind_of_target(target)
    loops = BACKENDS[kind].loops(target, left)
    phases = [*loops, DumpIR(f"phase4-scheduled-{kind}", dump_dir)]
    return run_passes(phases, kernels, target)


def _with_traces(
    kernels: IRModule, form: IRModule, target: Target, traces: Mapping[str, str]
) -> IRModule:
    """Return `form` with the loops of `traces`, whose kernels read weights that are not packed."""
    if not traces:
        return form
    return apply_traces(_with_loops(kernels, target, left=traces), kernels, traces)


def _merged(network: Network, placement: Mapping[str, str]) -> IRModule:
    forms = list(network.lowered.values())
    main = forms[0].mod["main"]
    num_input = int(main.attrs[NUM_INPUT])
    inputs = list(main.params[:num_input])
    weights = {param.name: param for form in forms for param in form.mod["main"].params[num_input:]}
    calls = {
        (binding.var.name, id(form)): binding.value
        for form in forms
        for binding in bindings(form.mod["main"])
    }
    builder = relax.BlockBuilder(IRModule(_functions(forms[0].mod), attrs=forms[0].mod.attrs))
    with builder.function("main", [*inputs, *weights.values()], attrs=dict(main.attrs)):
        with builder.dataflow():
            bound = {param.name: param for param in inputs} | weights
            for binding in bindings(main):
                value = binding.value
                if binding.var.name in placement:
                    value = calls[binding.var.name, id(network.on(placement[binding.var.name]))]
                bound[binding.var.name] = builder.emit(_renamed(value, bound), binding.var.name)
            output = builder.emit_output(bound[main.body.body.name], "output")
        builder.emit_func_output(output)
    return builder.finalize()


def _functions(mod: IRModule) -> dict[Any, Any]:
    return {var: func for var, func in mod.functions_items() if var.name_hint != "main"}


def _renamed(value: relax.Expr, bound: Mapping[str, relax.Var]) -> relax.Expr:
    """Return a bound value that reads the variables of `bound` in place of those of its name."""
    if isinstance(value, relax.Var):
        return bound[value.name]
    if isinstance(value, relax.Tuple):
        return relax.Tuple([_renamed(item, bound) for item in value.fields])
    if isinstance(value, relax.TupleGetItem):
        return relax.TupleGetItem(_renamed(value.tuple_value, bound), value.index)
    kernel, arguments, *rest = value.args
    args = [kernel, _renamed(arguments, bound), *rest]
    return relax.Call(value.op, args, value.attrs, value.ty_args)


def apply_pass(step: Any, mod: IRModule) -> IRModule:
    """Run a module pass through `Sequential`, so that instruments see it."""
    return tvm.transform.Sequential([step])(mod)
