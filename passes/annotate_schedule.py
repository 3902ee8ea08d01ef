"""The pass that writes a schedule into the module: devices, copies, stages and stream groups."""

from collections.abc import Mapping

import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.target import Target

from hios_tvm.errors import ScheduleError
from hios_tvm.passes.dataflow import bindings
from hios_tvm.passes.extract_operator_graph import is_call_tir, tensor_types
from hios_tvm.schema.schedule import Schedule

SCHEDULE = "hios_schedule"
"""Module attribute that holds the schedule as JSON: stages and stream groups by operator name."""


def schedule_of(mod: IRModule) -> Schedule:
    """Return the schedule that `AnnotateSchedule` wrote into `mod`."""
    if mod.attrs is None or SCHEDULE not in mod.attrs:
        raise ScheduleError("the module carries no schedule; run AnnotateSchedule first")
    return Schedule.from_json(str(mod.attrs[SCHEDULE]))


@tvm.transform.module_pass(opt_level=0, name="AnnotateSchedule")
class AnnotateSchedule:
    """Place every tensor in a memory and copy what crosses memories (run after lowering).

    Memory i of the schedule's devices becomes ``vdevice[i]``. A tensor that several operators read
    in another memory is copied there once, by `R.to_vdevice`. Inputs and weights start in the
    memory of their first reader. The whole schedule, with the device of each operator, is kept in
    the module attribute `SCHEDULE`.

    Parameters
    ----------
    schedule : Schedule
        Places every operator of the module exactly once.
    targets : device name -> Target
        What the kernels of each device are compiled for.
    """

    def __init__(self, schedule: Schedule, targets: Mapping[str, Target]) -> None:
        self.schedule = schedule
        self.targets = dict(targets)

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        own_memory = [name for name, target in self.targets.items() if target.kind.name != "llvm"]
        memories = self.schedule.memories(own_memory)
        target_of = {memory: self.targets[name] for name, memory in memories.items()}
        # Equal targets would be one VDevice without distinct ids, so the id counts memories.
        vdevices = [relax.VDevice(target, i) for i, target in enumerate(target_of.values())]
        number = {memory: i for i, memory in enumerate(target_of)}
        memory_of = {
            operator: number[memories[device]]
            for operator, device in self.schedule.placement.items()
        }
        main = mod["main"]
        _check_same_operators(main, memory_of)
        others = {gvar: function for gvar, function in mod.functions.items() if function != main}
        annotated = IRModule(
            others,
            attrs=tvm.ir.make_node("ir.DictAttrs", **{SCHEDULE: self.schedule.to_json()}),
            global_infos={"vdevice": vdevices},
        )
        return _annotated(annotated, main, memory_of, vdevices)


def _check_same_operators(main: relax.Function, memory_of: Mapping[str, int]) -> None:
    operators = {binding.var.name for binding in bindings(main) if is_call_tir(binding.value)}
    if operators != memory_of.keys():
        unplaced = sorted(operators - memory_of.keys())
        unknown = sorted(memory_of.keys() - operators)
        raise ScheduleError(
            f"the schedule does not fit the module: {len(unplaced)} operators without a place "
            f"{unplaced[:3]}, {len(unknown)} unknown ones {unknown[:3]}"
        )


def _annotated(
    mod: IRModule,
    main: relax.Function,
    memory_of: Mapping[str, int],
    vdevices: list[relax.VDevice],
) -> IRModule:
    builder = relax.BlockBuilder(mod)
    first_memory = _first_memories(main, memory_of)
    params = [relax.Var(p.name, _placed(p.ty, vdevices[first_memory[p]])) for p in main.params]
    local: dict[tuple[relax.Var, int], relax.Var] = {  # by the memory that holds the value
        (old, first_memory[old]): new for old, new in zip(main.params, params, strict=True)
    }

    def in_memory(var: relax.Var, memory: int) -> relax.Var:
        if (var, memory) not in local:
            copy = relax.op.to_vdevice(local[var, first_memory[var]], vdevices[memory])
            local[var, memory] = builder.emit(copy, f"{var.name}_on_{memory}")
        return local[var, memory]

    def placed_value(value: relax.Expr, memory: int) -> relax.Expr:
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(in_memory(value.tuple_value, memory), value.index)
        kernel, args = value.args[:2]
        fields = [in_memory(field, memory) for field in args.fields]
        types = [_placed(ty, vdevices[memory]) for ty in tensor_types(value.ty_args[0])]
        return relax.op.call_tir(kernel, relax.Tuple(fields), types)

    with builder.function("main", params, attrs=dict(main.attrs)):
        with builder.dataflow():
            result: relax.Expr = main.body.body
            for binding in bindings(main):
                var, value = binding.var, binding.value
                if isinstance(value, relax.Tuple):  # the tuple of outputs: each stays where it is
                    fields = [local[field, first_memory[field]] for field in value.fields]
                    local[var, first_memory[var]] = builder.emit(relax.Tuple(fields), var.name)
                elif isinstance(value, relax.Var):
                    local[var, first_memory[var]] = local[value, first_memory[value]]
                else:
                    placed = placed_value(value, first_memory[var])
                    local[var, first_memory[var]] = builder.emit(placed, var.name)
            output = builder.emit_output(local[result, first_memory[result]], "output")
        builder.emit_func_output(output)
    return builder.finalize()


def _first_memories(main: relax.Function, memory_of: Mapping[str, int]) -> dict[relax.Var, int]:
    """Return the memory in which each variable is computed, or first read; 0 if there is none."""
    first_memory: dict[relax.Var, int] = {}
    params = set(main.params)
    for binding in bindings(main):
        var, value = binding.var, binding.value
        if is_call_tir(value):
            first_memory[var] = memory_of[var.name]
            for field in value.args[1].fields:
                if field in params:
                    first_memory.setdefault(field, first_memory[var])
        elif isinstance(value, relax.TupleGetItem):
            first_memory[var] = first_memory[value.tuple_value]
        elif isinstance(value, relax.Var):
            first_memory[var] = first_memory.setdefault(value, 0)
        else:
            for field in value.fields:
                first_memory.setdefault(field, 0)
            first_memory[var] = 0
    for param in main.params:
        first_memory.setdefault(param, 0)
    return first_memory


def _placed(ty: relax.TensorType, device: relax.VDevice) -> relax.TensorType:
    return relax.TensorType(ty.shape, ty.dtype, device)
