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
    """Place every tensor on a virtual device and copy what crosses devices (run after lowering).

    Device i of the schedule becomes ``vdevice[i]``. A tensor that several operators of a remote
    device read is copied there once, by `R.to_vdevice`. Inputs and weights start on the device
    of their first reader. The whole schedule is kept in the module attribute `SCHEDULE`.

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
        devices = [device.device for device in self.schedule]
        # Equal targets would be one VDevice without distinct ids, so the id counts devices.
        vdevices = [relax.VDevice(self.targets[name], i) for i, name in enumerate(devices)]
        device_of = {
            operator: i for i, device in enumerate(self.schedule) for operator in device.operators
        }
        main = mod["main"]
        _check_same_operators(main, device_of)
        others = {gvar: function for gvar, function in mod.functions.items() if function != main}
        annotated = IRModule(
            others,
            attrs=tvm.ir.make_node("ir.DictAttrs", **{SCHEDULE: self.schedule.to_json()}),
            global_infos={"vdevice": vdevices},
        )
        return _annotated(annotated, main, device_of, vdevices)


def _check_same_operators(main: relax.Function, device_of: Mapping[str, int]) -> None:
    operators = {binding.var.name for binding in bindings(main) if is_call_tir(binding.value)}
    if operators != device_of.keys():
        unplaced = sorted(operators - device_of.keys())
        unknown = sorted(device_of.keys() - operators)
        raise ScheduleError(
            f"the schedule does not fit the module: {len(unplaced)} operators without a place "
            f"{unplaced[:3]}, {len(unknown)} unknown ones {unknown[:3]}"
        )


def _annotated(
    mod: IRModule,
    main: relax.Function,
    device_of: Mapping[str, int],
    vdevices: list[relax.VDevice],
) -> IRModule:
    builder = relax.BlockBuilder(mod)
    first_device = _first_devices(main, device_of)
    params = [relax.Var(p.name, _placed(p.ty, vdevices[first_device[p]])) for p in main.params]
    local: dict[tuple[relax.Var, int], relax.Var] = {  # by the device that holds the value
        (old, first_device[old]): new for old, new in zip(main.params, params, strict=True)
    }

    def on_device(var: relax.Var, device: int) -> relax.Var:
        if (var, device) not in local:
            copy = relax.op.to_vdevice(local[var, first_device[var]], vdevices[device])
            local[var, device] = builder.emit(copy, f"{var.name}_on_{device}")
        return local[var, device]

    def placed_value(value: relax.Expr, device: int) -> relax.Expr:
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(on_device(value.tuple_value, device), value.index)
        kernel, args = value.args[:2]
        fields = [on_device(field, device) for field in args.fields]
        types = [_placed(ty, vdevices[device]) for ty in tensor_types(value.ty_args[0])]
        return relax.op.call_tir(kernel, relax.Tuple(fields), types)

    with builder.function("main", params, attrs=dict(main.attrs)):
        with builder.dataflow():
            result: relax.Expr = main.body.body
            for binding in bindings(main):
                var, value = binding.var, binding.value
                if isinstance(value, relax.Tuple):  # the tuple of outputs: each stays where it is
                    fields = [local[field, first_device[field]] for field in value.fields]
                    local[var, first_device[var]] = builder.emit(relax.Tuple(fields), var.name)
                elif isinstance(value, relax.Var):
                    local[var, first_device[var]] = local[value, first_device[value]]
                else:
                    placed = placed_value(value, first_device[var])
                    local[var, first_device[var]] = builder.emit(placed, var.name)
            output = builder.emit_output(local[result, first_device[result]], "output")
        builder.emit_func_output(output)
    return builder.finalize()


def _first_devices(main: relax.Function, device_of: Mapping[str, int]) -> dict[relax.Var, int]:
    """Return the device that computes each variable, or first reads it; 0 if there is none."""
    first_device: dict[relax.Var, int] = {}
    params = set(main.params)
    for binding in bindings(main):
        var, value = binding.var, binding.value
        if is_call_tir(value):
            first_device[var] = device_of[var.name]
            for field in value.args[1].fields:
                if field in params:
                    first_device.setdefault(field, first_device[var])
        elif isinstance(value, relax.TupleGetItem):
            first_device[var] = first_device[value.tuple_value]
        elif isinstance(value, relax.Var):
            first_device[var] = first_device.setdefault(value, 0)
        else:
            for field in value.fields:
                first_device.setdefault(field, 0)
            first_device[var] = 0
    for param in main.params:
        first_device.setdefault(param, 0)
    return first_device


def _placed(ty: relax.TensorType, device: relax.VDevice) -> relax.TensorType:
    return relax.TensorType(ty.shape, ty.dtype, device)
