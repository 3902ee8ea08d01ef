"""Relax modules, such as imported Relay programs, run by TVM's default executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GlobalVar, IRModule

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.virtual_machine import build_virtual_machine
from hios_tvm.errors import ModelError
from hios_tvm.passes.dataflow import bindings, operator_name, substitute
from hios_tvm.verification.deviation import Arrays
from hios_tvm.verification.reference import Reference, Step, perturbed

_SHAPES_ONLY = ("relax.shape_of",)


class RelaxReference(Reference):
    """A frontend's module, built with TVM's default pipeline.

    A step is a binding with its projections: of what returns a tuple, the parts are the tensors.
    """

    def __init__(self, mod: IRModule) -> None:
        self._mod = mod

    @property
    def runner(self) -> str:
        return f"TVM {tvm.__version__}'s default executor"

    @cached_property
    def _name(self) -> Mapping[relax.Var, str]:
        """The tensors' names: the original ones of inputs and outputs, else the variables'."""
        main = self._mod["main"]
        names = dict(zip(main.params, map(str, main.attrs["input_names"]), strict=True))
        outputs = zip(_results(main), map(str, main.attrs["output_names"]), strict=True)
        for value, name in outputs:
            if isinstance(value, relax.Var):
                names.setdefault(value, name)
        taken = set(names.values())
        for binding in bindings(main):
            if binding.var in names:
                continue
            name, count = binding.var.name, 0
            while name in taken:
                count += 1
                name = f"{binding.var.name}_{count}"
            taken.add(name)
            names[binding.var] = name
        return names

    @cached_property
    def _parts(self) -> Mapping[str, Sequence[relax.Binding]]:
        """The bindings of a step, by each tensor that it writes."""
        groups: dict[relax.Var, list[relax.Binding]] = {}
        for binding in bindings(self._mod["main"]):
            source = getattr(binding.value, "tuple_value", None)
            group = groups.get(source) if isinstance(source, relax.Var) else None
            if group is None:
                group = []
            group.append(binding)
            groups[binding.var] = group
        return {self._name[var]: group for var, group in groups.items()}

    @cached_property
    def steps(self) -> Sequence[Step]:
        main = self._mod["main"]
        computed = {self._name[param] for param in main.params}
        steps, seen = [], set()
        for binding in bindings(main):
            group = self._parts[self._name[binding.var]]
            if id(group) in seen:
                continue
            seen.add(id(group))
            first = group[0].value
            reads = tuple(dict.fromkeys(self._name[var] for var in _variables(first)))
            is_computed = operator_name(first) not in _SHAPES_ONLY and not computed.isdisjoint(
                reads
            )
            writes = tuple(self._name[part.var] for part in group)
            computed.update(writes if is_computed else ())
            operator = operator_name(first).removeprefix("relax.") or type(first).__name__
            if operator == "call_tir":
                operator = str(first.args[0].name_hint)
            steps.append(Step(operator, writes[0], reads, writes, is_computed))
        return steps

    @property
    def outputs(self) -> Sequence[str]:
        return [self._name.get(value, "") for value in _results(self._mod["main"])]

    @cached_property
    def _machine(self) -> Callable[[Arrays], dict[str, np.ndarray]]:
        try:
            return build_virtual_machine(self._mod, host_target())
        except Exception as error:  # TVM raises what its checks find, in all of Python's types
            raise _cannot_run(error) from error

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            return self._machine(inputs)
        except ModelError:
            raise
        except Exception as error:
            raise _cannot_run(error) from error

    def run_otherwise(
        self, inputs: Arrays, rounding: float = 0.0
    ) -> Iterable[dict[str, np.ndarray]]:
        yield self.run(perturbed(inputs, 0, rounding))
        yield self.run(perturbed(inputs, 1, rounding))

    def module(self) -> IRModule:
        return self._mod

    def save(self, folder: Path) -> Path:
        path = folder / "model.relax.json"
        path.write_text(tvm.ir.save_json(self._mod))
        (folder / "model.py").write_text(self._mod.script(show_meta=True))
        return path

    def _cut(self, steps: Sequence[Step], inputs: Arrays, outputs: Sequence[str]) -> RelaxReference:
        var_of = {name: var for var, name in self._name.items()}
        if any(not isinstance(var_of[name].ty, relax.TensorType) for name in (*inputs, *outputs)):
            raise ModelError("the model cannot be cut between a tuple and its parts")
        chosen = [binding for step in steps for binding in self._parts[step.writes[0]]]
        replaced: dict[relax.Var, relax.Expr] = {
            var_of[name]: relax.Var(f"input{i}", var_of[name].ty) for i, name in enumerate(inputs)
        }
        params = list(replaced.values())
        args = [arg for binding in chosen for arg in getattr(binding.value, "args", ())]
        called = {arg for arg in args if isinstance(arg, GlobalVar)}
        others = {var: func for var, func in self._mod.functions_items() if var in called}
        builder = relax.BlockBuilder(IRModule(others, attrs=self._mod.attrs))
        attrs = {"input_names": list(inputs), "output_names": list(outputs)}
        with builder.function("main", params, attrs=attrs):
            with builder.dataflow():
                for binding in chosen:
                    value = substitute(binding.value, replaced)
                    replaced[binding.var] = builder.emit(value, binding.var.name)
                results = [builder.emit_output(replaced[var_of[name]]) for name in outputs]
            builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
        return RelaxReference(builder.finalize())


def _results(main: relax.Function) -> list[relax.Expr]:
    body = main.body.body
    return list(body.fields) if isinstance(body, relax.Tuple) else [body]


def _variables(value: relax.Expr) -> list[relax.Var]:
    found: list[relax.Var] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            found.append(expr)

    relax.analysis.post_order_visit(value, visit)
    return found


def _cannot_run(error: Exception) -> ModelError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ModelError(f"TVM's default executor cannot run the module: {reason}")
