"""Placements in ONNX models: written, read, and read after others wrote them."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import ModelProto, NodeDeviceConfigurationProto, helper
from onnx_models import make_model, node

from hios_tvm.errors import HiosError, ModelError, ScheduleError, UsageError
from hios_tvm.frontends.onnx.placement import SCHEDULE_KEY, read_placement, write_placement
from hios_tvm.schema.graph import Operator, OperatorGraph, Tensor
from hios_tvm.schema.schedule import DeviceSchedule, Schedule, Stage

DEVICES = ("cpu@0", "cpu@1")

GRAPH = OperatorGraph(
    "triangle",
    (
        Operator("left", "k", ("x",), ("left",), ("left", "scaled")),
        Operator("right", "k", ("left",), ("right",), ("right",)),
        Operator("sum", "k", ("left", "right"), ("sum",), ("sum",)),
    ),
    tuple(Tensor(name, (4,), "float32") for name in ("x", "left", "right", "sum")),
    inputs=("x",),
    outputs=("sum",),
)


def schedule(left: int, right: int, total: int) -> Schedule:
    placed = {"left": left, "right": right, "sum": total}
    devices = (
        DeviceSchedule(name, tuple(Stage(((op,),)) for op, device in placed.items() if device == i))
        for i, name in enumerate(DEVICES)
    )
    return Schedule("by hand", tuple(devices), makespan_ms=1.5, options={"window": 2})


@pytest.fixture
def model() -> ModelProto:
    """What `GRAPH` was made of, with an identity that no operator names, and a constant."""
    nodes = [
        node("Neg", "x", "a", name="left"),
        node("Relu", "a", "scaled"),
        node("Constant", "", "c", name="constant", value_float=2.0),
        node("Identity", "scaled", "b", name="vanished"),
        node("Mul", "b c", "r", name="right"),
        node("Add", "scaled r", "y", name="sum"),
        node("Identity", "y", "z", name="last"),
    ]
    model = make_model(nodes, {"x": [4]}, ["z"])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [4]))
    return model


def placed(model: ModelProto, *devices: int) -> ModelProto:
    return write_placement(model, GRAPH, schedule(*devices), "pair")[0]


def place_by_hand(model: ModelProto, **nodes: NodeDeviceConfigurationProto) -> ModelProto:
    """Give a copy of `model` two devices without names, and its nodes these configurations."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = 11
    copy.configuration.add(name="hand", num_devices=2)
    for each in copy.graph.node:
        if each.name in nodes:
            own = each.device_configurations.add()
            own.CopyFrom(nodes[each.name])
            own.configuration_id = "hand"
    return copy


def on(tensor: str, *devices: int, **fields: object) -> NodeDeviceConfigurationProto:
    own = NodeDeviceConfigurationProto()
    own.sharding_spec.add(tensor_name=tensor, device=devices, **fields)
    return own


def in_stage(stage: int) -> NodeDeviceConfigurationProto:
    return NodeDeviceConfigurationProto(pipeline_stage=stage)


def test_each_node_gets_the_device_that_computes_it(model: ModelProto) -> None:
    before = model.SerializeToString()
    result, is_pipeline = write_placement(model, GRAPH, schedule(0, 1, 1), "pair")
    assert is_pipeline and model.SerializeToString() == before
    onnx.checker.check_model(result)
    assert result.ir_version == 11
    (entry,) = result.configuration
    assert (entry.name, entry.num_devices, [*entry.device]) == ("pair", 2, [*DEVICES])
    found = {}
    for each in result.graph.node:
        (own,) = each.device_configurations
        assert own.configuration_id == "pair"
        (spec,) = own.sharding_spec
        assert spec.tensor_name == each.output[0] and not spec.sharded_dim
        (device,) = spec.device
        assert own.pipeline_stage == device  # those of `left` come before the others
        found[each.name or each.output[0]] = device
    assert found == {
        **dict.fromkeys(["left", "scaled"], 0),
        **dict.fromkeys(["constant", "vanished", "right"], 1),  # of the first reader
        **dict.fromkeys(["sum", "last"], 1),  # or of what is read
    }


def test_devices_in_a_circle_are_no_pipeline(model: ModelProto) -> None:
    result, is_pipeline = write_placement(model, GRAPH, schedule(0, 1, 0), "pair")
    assert not is_pipeline
    configurations = [own for each in result.graph.node for own in each.device_configurations]
    assert len(configurations) == 7
    assert not any(own.HasField("pipeline_stage") for own in configurations)


@pytest.mark.parametrize("devices", [(0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)])
def test_what_is_written_is_read(model: ModelProto, devices: tuple[int, int, int]) -> None:
    found = read_placement(placed(model, *devices))
    assert found is not None and found.devices == DEVICES
    assert found.schedule_on(GRAPH, DEVICES) == schedule(*devices)
    assert replace(found, schedule=None).schedule_on(GRAPH, DEVICES).placement == (
        schedule(*devices).placement
    )
    elsewhere = found.schedule_on(GRAPH, ("cuda:0", "cpu@7"))
    assert [own.device for own in elsewhere] == ["cuda:0", "cpu@7"]
    assert [own.stages for own in elsewhere] == [own.stages for own in schedule(*devices)]


def test_nothing_is_lost_in_onnx_ir(model: ModelProto) -> None:
    ir = pytest.importorskip("onnx_ir", reason="onnx-ir is not installed", minversion="1.0")
    result = placed(model, 0, 1, 1)
    again = ir.to_proto(ir.from_proto(result))
    assert read_placement(again) == read_placement(result)
    onnx.checker.check_model(again)


def test_a_placement_made_with_onnx_ir_is_read(model: ModelProto) -> None:
    ir = pytest.importorskip("onnx_ir", reason="onnx-ir is not installed", minversion="1.0")
    other = ir.from_proto(model)
    other.ir_version = 11
    pipeline = other.add_device_configuration("pipeline", num_devices=2)
    for each in other.graph:
        each.set_pipeline_stage(pipeline, int(each.name in ("right", "sum", "last")))
    found = read_placement(ir.to_proto(other))
    assert found is not None and found.devices == ("", "")
    assert found.schedule_on(GRAPH, DEVICES).placement == schedule(0, 1, 1).placement


def test_a_second_placement_replaces_the_first_of_its_name(model: ModelProto) -> None:
    assert placed(placed(model, 0, 1, 1), 1, 0, 0) == placed(model, 1, 0, 0)
    both = write_placement(placed(model, 0, 1, 1), GRAPH, schedule(1, 1, 1), "other")[0]
    onnx.checker.check_model(both)
    with pytest.raises(UsageError, match="several configurations, pair, other: say which"):
        read_placement(both)
    found = read_placement(both, "other")
    assert found is not None and set(found.device_of.values()) == {1}
    with pytest.raises(UsageError, match="no node by a configuration 'x'; those that do: pair, ot"):
        read_placement(both, "x")


def test_an_order_of_another_placement_is_not_used(model: ModelProto) -> None:
    edited = placed(model, 0, 1, 1)
    edited.graph.node[-2].device_configurations[0].sharding_spec[0].device[0] = 0
    found = read_placement(edited)
    assert found is not None and found.schedule is not None
    assert not found.is_of(found.schedule, GRAPH)
    result = found.schedule_on(GRAPH, DEVICES)
    assert result.placement == {"left": "cpu@0", "right": "cpu@1", "sum": "cpu@0"}
    assert result.scheduler == "configuration pair"


def test_devices_that_share_cores_run_in_the_order_of_the_graph(model: ModelProto) -> None:
    found = read_placement(place_by_hand(model, right=on("r", 1)))
    assert found is not None
    result = found.schedule_on(GRAPH, ("cpu@0-1", "cpu@1"))
    positions = {stage.operators[0]: stage.position for own in result for stage in own.stages}
    assert positions == {"left": 0, "right": 1, "sum": 2}


def test_a_model_without_placed_nodes_has_no_placement(model: ModelProto) -> None:
    assert read_placement(model) is None
    assert read_placement(place_by_hand(model)) is None


def test_a_placement_may_leave_nodes_out(model: ModelProto) -> None:
    """An operator without one runs where its first reader does."""
    by_hand = place_by_hand(model, sum=on("y", 1), scaled=on("x", 0))
    found = read_placement(by_hand)
    assert found is not None and found.device_of == {"sum": 1}
    assert found.schedule_on(GRAPH, DEVICES).placement == schedule(1, 1, 1).placement


def test_inputs_and_groups_place_nodes_too(model: ModelProto) -> None:
    group = on("y", -1, index_to_device_group_map=[{"key": -1, "value": [1]}])
    found = read_placement(place_by_hand(model, left=on("x", 1), sum=group))
    assert found is not None and found.device_of == {"left": 1, "sum": 1}


def test_a_group_that_is_named_often_is_read_once(model: ModelProto) -> None:
    often = place_by_hand(model, left=on("a", *[7] * 100_000))
    spec = next(n for n in often.graph.node if n.name == "left").device_configurations[0]
    spec.sharding_spec[0].index_to_device_group_map.add(key=7, value=[1] * 100_000)
    found = read_placement(often)  # 10^10 members, if each were read
    assert found is not None and found.device_of == {"left": 1}


def half(axis: int) -> dict[str, object]:
    return {"axis": axis, "simple_sharding": [{"num_shards": 2}]}


@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        (
            {"left": on("a", 0, 1, sharded_dim=[half(0)]), "sum": on("y", 0)},
            ScheduleError,
            "tensors of left are divided between devices .* configuration 'hand': place each node",
        ),
        ({"left": on("x", 0, sharded_dim=[half(0)])}, ScheduleError, "tensors of left are"),
        ({"sum": on("y", 0, 1), "left": on("a", 0, 1)}, ScheduleError, "of left, sum are"),
        ({"sum": on("y", 2)}, ModelError, "'sum' is placed on device 2; .* has the devices 0 to 1"),
        ({"sum": in_stage(2)}, ModelError, "'sum' is placed on device 2"),
    ],
)
def test_what_cannot_be_placed_is_refused_by_name(
    model: ModelProto,
    nodes: dict[str, NodeDeviceConfigurationProto],
    error: type[HiosError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        read_placement(place_by_hand(model, **nodes))


def test_a_kernel_of_nodes_on_two_devices_is_refused(model: ModelProto) -> None:
    model.graph.node[1].name = "scaled"
    by_hand = place_by_hand(model, left=in_stage(0), scaled=in_stage(1), right=in_stage(1))
    found = read_placement(by_hand)
    assert found is not None
    with pytest.raises(
        ScheduleError,
        match=r"computes node 'left', which .* places on device 0, and node 'scaled', on "
        "device 1: place them on one device",
    ):
        found.schedule_on(GRAPH, DEVICES)


def test_models_that_are_not_valid_are_refused(model: ModelProto) -> None:
    names = place_by_hand(model, sum=in_stage(0))
    names.configuration[0].device.append("only one")
    with pytest.raises(ModelError, match="has 2 devices and 1 names of devices"):
        read_placement(names)
    many = place_by_hand(model, sum=in_stage(0))
    many.configuration[0].num_devices = 2**31 - 1
    with pytest.raises(ModelError, match="has 2147483647 devices, more than 4096"):
        read_placement(many)
    damaged = placed(model, 0, 1, 1)
    assert damaged.metadata_props[0].key == f"{SCHEDULE_KEY}.pair"
    damaged.metadata_props[0].value = "{"
    with pytest.raises(ModelError, match=r"metadata 'org.hios-tvm.schedule.pair' cannot be read"):
        read_placement(damaged)
    twice = place_by_hand(model, left=in_stage(0), right=in_stage(1))
    twice.graph.node[4].name = "left"
    with pytest.raises(ModelError, match="several nodes are called 'left' and placed on different"):
        read_placement(twice)


def test_a_placement_of_another_model_is_not_written(model: ModelProto) -> None:
    less = replace(GRAPH, operators=GRAPH.operators[:2], outputs=("left", "right"))
    with pytest.raises(ModelError, match="not of this model's operators: 'sum' is of one"):
        write_placement(model, less, schedule(0, 1, 1), "pair")
    for each in model.graph.node:
        each.name = f"other {each.name}"
    model.graph.node[1].output[0] = "elsewhere"
    with pytest.raises(ModelError, match="of other nodes than the model has, such as 'left'"):
        write_placement(model, GRAPH, schedule(0, 1, 1), "pair")


def test_nodes_of_one_name_on_several_devices_are_refused(model: ModelProto) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["p"], name="n")]
    nodes.append(helper.make_node("Neg", ["p"], ["z"], name="n"))
    same = make_model(nodes, {"x": [4]}, ["z"])
    operators = tuple(replace(operator, nodes=("n",)) for operator in GRAPH.operators)
    with pytest.raises(ModelError, match="2 nodes are called 'n' and run on several devices"):
        write_placement(same, replace(GRAPH, operators=operators), schedule(0, 1, 1), "pair")
