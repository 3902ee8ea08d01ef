from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from hios_tvm.errors import UsageError
from hios_tvm.zoo import NETWORKS, build, model_size, nasnet
from hios_tvm.zoo.builder import GraphBuilder, Tensor

Array = npt.NDArray[np.float32]

# As published: the parameters by torchvision 0.20 (inception_v3 without its auxiliary classifier:
# 27,161,264 - 3,326,696) and timm (nasnetalarge); the multiply-adds by torchvision and
# by the papers of NASNet (23.8 billion) and RandWire (5.6 +- 0.1 M, 583 +- 6.2 M).
PUBLISHED = {
    "inception_v3": (23_834_568, 0, 5.71e9),
    "nasnet_a_large": (88_753_150, 0, 23.8e9),
    "randwire": (5_600_000, 100_000, 583e6),
    "squeezenet1_1": (1_235_496, 0, 0.349e9),
    "resnet50": (25_557_032, 0, 4.09e9),
    "densenet121": (7_978_856, 0, 2.834e9),
}


@functools.cache
def small(name: str, seed: int = 0) -> onnx.ModelProto:
    """Return a network for the smallest images; NASNet with fewer of the cells that are alike."""
    side = NETWORKS[name].minimum_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nasnet, "CELLS", 1)
        return build(name, height=side, width=side, seed=seed)


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@functools.cache
def small_session(name: str, seed: int = 0) -> onnxruntime.InferenceSession:
    return open_session(small(name, seed))


def run(session: onnxruntime.InferenceSession, images: npt.NDArray[np.floating]) -> Array:
    (logits,) = session.run(["output"], {"input": images.astype(np.float32)})
    return np.asarray(logits)


def noise(shape: tuple[int, ...], seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)


def test_published_covers_the_zoo() -> None:
    assert set(PUBLISHED) == set(NETWORKS)
    assert all(network.name == name for name, network in NETWORKS.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_size_is_as_published(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, tolerance, multiply_adds = PUBLISHED[name]
    quick = replace(NETWORKS[name], calibration_size=NETWORKS[name].minimum_size)
    monkeypatch.setitem(NETWORKS, name, quick)
    model = build(name)
    size = model_size(model)
    assert abs(size.parameters - parameters) <= tolerance
    assert size.multiply_adds == pytest.approx(multiply_adds, rel=0.002)
    assert input_shape(model) == (1, 3, NETWORKS[name].size, NETWORKS[name].size)


@pytest.mark.parametrize("name", NETWORKS)
def test_model_is_valid_and_runs(name: str) -> None:
    model = small(name)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["output"]
    logits = run(small_session(name), noise(input_shape(model)))
    assert logits.shape == (1, 1000)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_depend_on_the_images(name: str) -> None:
    shape = input_shape(small(name))
    reference = run(small_session(name), noise(shape))
    other = run(small_session(name), noise(shape, seed=2))
    assert np.abs(other - reference).max() > 0.02 * np.abs(reference).max()


@pytest.mark.parametrize("name", ["randwire", "squeezenet1_1"])
def test_outputs_depend_on_the_seed(name: str) -> None:
    images = noise(input_shape(small(name)))
    reference = run(small_session(name), images)
    other = run(small_session(name, 1), images)
    assert np.abs(other - reference).max() > 0.1 * np.abs(reference).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_do_not_amplify_rounding_errors(name: str) -> None:
    """Else a comparison of two runtimes would say nothing."""
    images = noise(input_shape(small(name))).astype(np.float64)
    reference = run(small_session(name), images)
    nudged = run(small_session(name), images * (1 + 1e-5 * noise(images.shape, seed=3)))
    assert np.abs(nudged - reference).max() < 3e-4 * np.abs(reference).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_keep_their_scale(name: str) -> None:
    """In the middle of the network as well as at its end, for noise and for plain images."""
    shape = input_shape(small(name))
    model = onnx.ModelProto()
    model.CopyFrom(small(name))
    inner = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Concat")]
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in inner)
    session = open_session(model)
    assert len(inner) > 20
    for images in (noise(shape), np.random.default_rng(1).random(shape, np.float32)):
        for value in session.run(inner, {"input": images}):
            assert 0.01 < np.abs(value).max() < 1000


@pytest.mark.parametrize("name", NETWORKS)
def test_calibration_computes_what_onnx_runtime_computes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nasnet, "CELLS", 1)
    network = NETWORKS[name]
    graph = GraphBuilder(seed=0)
    shape = (2, 3, network.calibration_size, network.calibration_size - 7)
    sample = np.random.default_rng(1).standard_normal(shape)
    logits = network.forward(graph, graph.input("input", shape, sample))
    assert logits.shape == logits.sample.shape
    expected = run(open_session(graph.model(name, logits)), sample)
    np.testing.assert_allclose(expected, logits.sample, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["squeezenet1_1", "randwire"])
def test_same_seed_same_bytes(name: str) -> None:
    side = NETWORKS[name].minimum_size
    again = build(name, height=side, width=side)
    assert again.SerializeToString() == small(name).SerializeToString()
    assert small(name, 1).SerializeToString() != small(name).SerializeToString()


def test_image_size_and_batch_do_not_change_the_weights() -> None:
    tall = build("squeezenet1_1", height=64, width=40, batch=3)
    assert input_shape(tall) == (3, 3, 64, 40)
    assert list(tall.graph.initializer) == list(small("squeezenet1_1").graph.initializer)
    images = noise(input_shape(tall))
    one_by_one = open_session(build("squeezenet1_1", height=64, width=40))
    expected = np.concatenate([run(one_by_one, image[np.newaxis]) for image in images])
    np.testing.assert_allclose(run(open_session(tall), images), expected, rtol=1e-4, atol=1e-5)


def test_wiring_of_randwire_is_the_same_for_every_seed() -> None:
    def wires(model: onnx.ModelProto) -> list[tuple[str, ...]]:
        return [(node.op_type, *node.input) for node in model.graph.node]

    assert wires(small("randwire", 0)) == wires(small("randwire", 1))


def test_names_of_nodes_and_tensors_are_unique() -> None:
    graph = small("nasnet_a_large").graph
    names = [tensor.name for tensor in graph.initializer]
    names += [output for node in graph.node for output in node.output]
    assert len(names) == len(set(names))
    assert "cell_0/add" in {node.name for node in graph.node}


@pytest.mark.parametrize("name", NETWORKS)
def test_too_small_images_are_one_clear_error(name: str) -> None:
    least = NETWORKS[name].minimum_size
    message = f"{least}x{least - 1} images are too small for {name}; it needs at least {least}x"
    with pytest.raises(UsageError, match=message):
        build(name, height=least, width=least - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_wrong_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build("resnet50", **options)


def test_unknown_network() -> None:
    with pytest.raises(UsageError, match="no network 'alexnet' in the zoo; it has inception_v3, "):
        build("alexnet")


def test_scope_prefixes_names_and_numbers_them() -> None:
    graph = GraphBuilder(seed=0)
    x = graph.input("x", (1, 2, 4, 4), np.ones((1, 2, 4, 4)))
    with graph.scope("a"), graph.scope("b"):
        first, second = graph.relu(x), graph.relu(x)
    third: Tensor = graph.relu(x)
    assert [first.name, second.name, third.name] == ["a/b/relu", "a/b/relu_2", "relu"]
