"""Placements in ONNX models: configurations of devices, and where each node is computed.

Since version 11 of its IR a model may have configurations of devices, and each node a configuration
of its own, which says on which devices of one of them its tensors are, how these are divided, and
in which stage of a pipeline the node is. Here a node is computed on one device as a whole, which
has all its outputs. The order on a device and the streams are no part of the standard; they are
metadata of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from onnx import ModelProto, NodeDeviceConfigurationProto, NodeProto, ShardingSpecProto

from hios_tvm.errors import ModelError, ScheduleError, UsageError
from hios_tvm.frontends.onnx.structure import node_name
from hios_tvm.schema.graph import OperatorGraph
from hios_tvm.schema.node_placement import NodePlacement, devices_of_nodes, spread
from hios_tvm.schema.plain_graph import MAX_DEVICES
from hios_tvm.schema.schedule import Schedule

SCHEDULE_KEY = "org.hios-tvm.schedule"
"""Begins the keys of the model's metadata; a dot and the configuration's name follow."""

IR_VERSION = 11
"""The first version of ONNX's IR that has configurations of devices."""

_MOST_NAMES = 5
"""Of nodes in one message."""


def write_placement(
    model: ModelProto, graph: OperatorGraph, schedule: Schedule, configuration: str
) -> tuple[ModelProto, bool]:
    """Return a copy of a model that says where each of its nodes is computed.

    A node that no operator names (it became part of another, or disappeared) gets the device of
    the first node that reads its result, or else of what it reads. Stages of a pipeline are those
    of devices, and are left out where devices hand tensors over in a circle.

    Parameters
    ----------
    model : ModelProto
    graph : OperatorGraph
        The operators that the model was lowered to.
    schedule : Schedule
        Of these operators.
    configuration : str
        The name for the devices; one of the same name is replaced.

    Returns
    -------
    ModelProto
    bool
        Whether it has stages of a pipeline.

    Raises
    ------
    ModelError
        If operators of other nodes are scheduled, or nodes of one name on several devices.
    """
    placed = ModelProto()
    placed.CopyFrom(model)
    placed.ir_version = max(placed.ir_version, IR_VERSION)
    _remove(placed, configuration)
    device_of = _devices(placed, graph, schedule)
    stage_of = _pipeline_stages(placed, device_of)
    entry = placed.configuration.add(name=configuration, num_devices=len(schedule.devices))
    entry.device.extend(own.device for own in schedule)
    for node, device in zip(placed.graph.node, device_of.values(), strict=True):
        own = node.device_configurations.add(configuration_id=configuration)
        for output in filter(None, node.output):
            own.sharding_spec.add(tensor_name=output, device=[device])
        if stage_of:
            own.pipeline_stage = stage_of[device]
    placed.metadata_props.add(key=_key(configuration), value=schedule.to_json())
    return placed, bool(stage_of)


def read_placement(model: ModelProto, configuration: str | None = None) -> NodePlacement | None:
    """Return how a model places its nodes, or None if it does not.

    A node is placed by the device of its outputs, or else of its inputs, or else by its stage of a
    pipeline, which is then the device's number.

    Parameters
    ----------
    model : ModelProto
    configuration : str, optional
        The one to read; by default the only one that places nodes.

    Raises
    ------
    UsageError
        If there is no such configuration, or several and none is named.
    ModelError
        If the configuration or a node's part of it is not valid.
    ScheduleError
        If tensors are divided between devices, or computed on several; the message names nodes.
    """
    used = {own.configuration_id for node in model.graph.node for own in node.device_configurations}
    known = {entry.name: entry for entry in model.configuration if entry.name in used}
    if configuration is None:
        if len(known) > 1:
            raise UsageError(
                f"the model places its nodes by several configurations, {', '.join(known)}: say "
                "which, with --configuration"
            )
        configuration = next(iter(known), None)
        if configuration is None:
            return None
    if configuration not in known:
        names = ", ".join(known) or "none"
        raise UsageError(
            f"the model places no node by a configuration {configuration!r}; those that do: {names}"
        )
    entry = known[configuration]
    if entry.num_devices < 1 or len(entry.device) not in (0, entry.num_devices):
        raise ModelError(
            f"the model's configuration {configuration!r} has {entry.num_devices} devices and "
            f"{len(entry.device)} names of devices; correct the model"
        )
    if entry.num_devices > MAX_DEVICES:
        raise ModelError(
            f"the model's configuration {configuration!r} has {entry.num_devices} devices, more "
            f"than {MAX_DEVICES}"
        )
    return NodePlacement(
        configuration,
        tuple(entry.device) or ("",) * entry.num_devices,
        _read_devices(model, configuration, entry.num_devices),
        _read_schedule(model, configuration),
    )


def _remove(model: ModelProto, configuration: str) -> None:
    """Remove what is known of a configuration of this name."""
    _keep(model.configuration, lambda entry: entry.name != configuration)
    _keep(model.metadata_props, lambda entry: entry.key != _key(configuration))
    for node in model.graph.node:
        _keep(node.device_configurations, lambda own: own.configuration_id != configuration)


def _keep(entries: Any, is_kept: Callable[[Any], bool]) -> None:
    for i in reversed(range(len(entries))):
        if not is_kept(entries[i]):
            del entries[i]


def _key(configuration: str) -> str:
    return f"{SCHEDULE_KEY}.{configuration}"


def _devices(model: ModelProto, graph: OperatorGraph, schedule: Schedule) -> dict[int, int]:
    """Return the device of each node, by the node's place in the model."""
    if other := schedule.placement.keys() ^ graph.operator.keys():
        raise ModelError(
            f"the placement is not of this model's operators: {min(other)!r} is of one of the two "
            "only; give the artifact, or the schedule, that was compiled from this model"
        )
    names = [node_name(node) for node in model.graph.node]
    _check_names(names, graph, schedule)
    by_name = devices_of_nodes(graph, schedule)
    if by_name and by_name.keys().isdisjoint(names):
        raise ModelError(
            f"the placement is of other nodes than the model has, such as {next(iter(by_name))!r}; "
            "give the model that was compiled"
        )
    known = {i: by_name[name] for i, name in enumerate(names) if name in by_name}
    return spread(known, _readings(model))


def _check_names(names: Sequence[str], graph: OperatorGraph, schedule: Schedule) -> None:
    """Refuse nodes of one name on several devices: operators do not tell which is which."""
    devices: dict[str, set[str]] = {}
    for operator in graph.operators:
        for node in operator.nodes:
            devices.setdefault(node, set()).add(schedule.placement[operator.name])
    for name, count in Counter(names).items():
        if count > 1 and len(devices.get(name, ())) > 1:
            raise ModelError(
                f"{count} nodes are called {name!r} and run on several devices; give the nodes of "
                "the model names of their own, and compile it again"
            )


def _readings(model: ModelProto) -> dict[int, list[int]]:
    """Return the nodes whose results each node reads, by their places in the model."""
    nodes = model.graph.node
    producer = {output: i for i, node in enumerate(nodes) for output in node.output if output}
    return {
        i: [producer[name] for name in node.input if name in producer]
        for i, node in enumerate(nodes)
    }


def _pipeline_stages(model: ModelProto, device_of: Mapping[int, int]) -> dict[int, int]:
    """Return the stage of each device, behind those that it reads from; none if there is a cycle.

    Devices of one stage do not read from each other.
    """
    before: dict[int, set[int]] = {device: set() for device in device_of.values()}
    for reader, read in _readings(model).items():
        before[device_of[reader]] |= {device_of[i] for i in read} - {device_of[reader]}
    stage_of: dict[int, int] = {}
    try:
        for device in TopologicalSorter(before).static_order():
            stage_of[device] = max((stage_of[other] + 1 for other in before[device]), default=0)
    except CycleError:
        return {}
    return stage_of


def _read_devices(model: ModelProto, configuration: str, num_devices: int) -> dict[str, int]:
    """Return the device of each placed node, by the node's name."""
    device_of: dict[str, int] = {}
    divided: list[str] = []
    for node in model.graph.node:
        name = node_name(node)
        for own in node.device_configurations:
            if own.configuration_id != configuration:
                continue
            devices = _devices_of(node, own)
            if len(devices) > 1 or any(map(_is_divided, own.sharding_spec)):
                divided.append(name)
            elif devices:
                device = devices.pop()
                if not 0 <= device < num_devices:
                    raise ModelError(
                        f"node {name!r} is placed on device {device}; the model's configuration "
                        f"{configuration!r} has the devices 0 to {num_devices - 1}"
                    )
                if device_of.setdefault(name, device) != device:
                    raise ModelError(
                        f"several nodes are called {name!r} and placed on different devices; give "
                        "them names of their own"
                    )
    if divided:
        more = f" and {len(divided) - _MOST_NAMES} more" if len(divided) > _MOST_NAMES else ""
        raise ScheduleError(
            f"tensors of {', '.join(divided[:_MOST_NAMES])}{more} are divided between devices or "
            f"repeated on several by the model's configuration {configuration!r}: place each node "
            "on one device, or schedule anew with --configuration none"
        )
    return device_of


def _devices_of(node: NodeProto, own: NodeDeviceConfigurationProto) -> set[int]:
    """Return the devices that compute a node: where it is said for its outputs, else its inputs."""
    for tensors in (node.output, node.input):
        names = set(tensors)
        devices = {
            device
            for spec in own.sharding_spec
            if spec.tensor_name in names
            for device in _members(spec)
        }
        if devices:
            return devices
    return {own.pipeline_stage} if own.HasField("pipeline_stage") else set()


def _members(spec: ShardingSpecProto) -> Iterator[int]:
    """Yield the devices of a tensor, those of groups one by one; each group once."""
    groups = {entry.key: entry.value for entry in spec.index_to_device_group_map}
    for device in set(spec.device):
        yield from groups.get(device, [device])


def _is_divided(spec: ShardingSpecProto) -> bool:
    return any(part.num_shards > 1 for axis in spec.sharded_dim for part in axis.simple_sharding)


def _read_schedule(model: ModelProto, configuration: str) -> Schedule | None:
    key = _key(configuration)
    text = next((entry.value for entry in model.metadata_props if entry.key == key), None)
    try:
        return None if text is None else Schedule.from_json(text)
    except ScheduleError as error:
        raise ModelError(f"the model's metadata {key!r} cannot be read: {error}") from error
