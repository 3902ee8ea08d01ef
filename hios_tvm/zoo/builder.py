"""A small builder of ONNX graphs that calibrates its weights while it builds.

Random weights make a poor benchmark unless activations keep their scale: behind a hundred layers
they have vanished, exploded, or forgotten the input. So every tensor carries a `sample`, its value
for one small batch of noise, and each batch norm takes its statistics from there, as training
would have left them. The statistics are computed in double precision and rounded to three digits,
so that a seed gives the same bytes on every machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from hios_tvm.zoo import arrays
from hios_tvm.zoo.arrays import Array, Pads

OPSET = 17
IR_VERSION = 8  # the oldest that holds opset 17, so that older runtimes read the models too

Weights = npt.NDArray[np.float32]

Padding = int | tuple[int, int] | Literal["same"]
"""Pixels on each side, or for (height, width), or ``ceil(size / stride)`` as TensorFlow does it."""

SHIFT = 0.5
"""Mean of what a ReLU gets, in its standard deviations. With 0, random networks of this depth
tend to amplify rounding errors, and two runtimes agree on fewer digits."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph.

    Attributes
    ----------
    name : str
    shape : tuple of int
        The shape in the model.
    sample : Array
        Its value for the calibration batch, whose images are smaller than the model's.
    """

    name: str
    shape: tuple[int, ...]
    sample: Array

    @property
    def channels(self) -> int:
        return self.shape[1]


class GraphBuilder:
    """Collects nodes and weights; every method appends one node and returns its output.

    Parameters
    ----------
    seed : int
        Decides all weights.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._scopes: list[str] = []
        self._names: Counter[str] = Counter()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of what is added inside with ``name/``."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def input(self, name: str, shape: tuple[int, ...], sample: Array) -> Tensor:
        """Declare an input of the model."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return Tensor(name, shape, sample)

    def conv(
        self,
        x: Tensor,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = 0,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        """Convolution with He-initialised weights; a `bias` moves each channel's mean (as in [1]_).

        References
        ----------
        .. [1] Krähenbühl et al., "Data-dependent initializations of CNNs", ICLR 2016.
        """
        window = _Window.of(kernel, stride, padding)
        fan_in = x.channels // groups * window.kernel[0] * window.kernel[1]
        weight = self._normal((channels, x.channels // groups, *window.kernel), (2 / fan_in) ** 0.5)
        sample = arrays.convolve(x.sample, weight, stride, window.pads(x.sample.shape[2:]), groups)
        weights = {"weight": weight}
        if bias:
            mean, deviation = sample.mean(axis=(0, 2, 3)), sample.std(axis=(0, 2, 3))
            weights["bias"] = _rounded(SHIFT * deviation - mean).astype(np.float32)
            sample = sample + weights["bias"].astype(np.float64)[:, np.newaxis, np.newaxis]
        shape = (x.shape[0], channels, *window.output(x.shape[2:]))
        return self._add("Conv", [x], shape, sample, weights, **window.attributes(x), group=groups)

    def batch_norm(self, x: Tensor, *, epsilon: float = 1e-5) -> Tensor:
        """Batch norm whose running statistics are those of the calibration batch."""
        mean = _rounded(x.sample.mean(axis=(0, 2, 3)))
        variance = x.sample.var(axis=(0, 2, 3))
        variance = _rounded(np.maximum(variance, 0.1 * variance.mean()))
        weights = {
            "scale": self.rng.uniform(0.8, 1.2, x.channels).astype(np.float32),
            "shift": self._normal((x.channels,), 0.2) + np.float32(SHIFT),
            "mean": mean.astype(np.float32),
            "variance": variance.astype(np.float32),
        }
        scale, shift, mean, variance = (
            value.astype(np.float64)[:, np.newaxis, np.newaxis] for value in weights.values()
        )
        sample = (x.sample - mean) / np.sqrt(variance + epsilon) * scale + shift
        return self._add("BatchNormalization", [x], x.shape, sample, weights, epsilon=epsilon)

    def relu(self, x: Tensor) -> Tensor:
        return self._add("Relu", [x], x.shape, np.maximum(x.sample, 0.0))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self._add("Add", [a, b], a.shape, a.sample + b.sample)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        """Product with a constant."""
        weights = {"factor": np.asarray(factor, np.float32)}
        return self._add("Mul", [x], x.shape, x.sample * float(weights["factor"]), weights)

    def concat(self, tensors: Sequence[Tensor]) -> Tensor:
        """Join tensors along their channels."""
        channels = sum(tensor.channels for tensor in tensors)
        shape = (tensors[0].shape[0], channels, *tensors[0].shape[2:])
        sample = np.concatenate([tensor.sample for tensor in tensors], axis=1)
        return self._add("Concat", list(tensors), shape, sample, axis=1)

    def max_pool(
        self,
        x: Tensor,
        kernel: int,
        *,
        stride: int,
        padding: Padding = 0,
        ceil_mode: bool = False,
    ) -> Tensor:
        window = _Window.of(kernel, stride, padding, ceil_mode)
        (top, bottom), (left, right) = window.pads(x.sample.shape[2:])
        rows, columns = window.overhang(x.sample.shape[2:])
        pads = ((top, bottom + rows), (left, right + columns))
        sample = arrays.max_pool(x.sample, window.kernel, stride, pads)
        shape = (*x.shape[:2], *window.output(x.shape[2:]))
        attributes = window.attributes(x)
        if ceil_mode:
            attributes["ceil_mode"] = 1
        return self._add("MaxPool", [x], shape, sample, **attributes)

    def average_pool(
        self,
        x: Tensor,
        kernel: int,
        *,
        stride: int = 1,
        padding: Padding = 0,
        include_padding: bool = False,
    ) -> Tensor:
        window = _Window.of(kernel, stride, padding)
        pads = window.pads(x.sample.shape[2:])
        sample = arrays.average_pool(x.sample, window.kernel, stride, pads, include_padding)
        shape = (*x.shape[:2], *window.output(x.shape[2:]))
        attributes = window.attributes(x) | {"count_include_pad": int(include_padding)}
        return self._add("AveragePool", [x], shape, sample, **attributes)

    def global_average_pool(self, x: Tensor) -> Tensor:
        sample = x.sample.mean(axis=(2, 3), keepdims=True)
        return self._add("GlobalAveragePool", [x], (*x.shape[:2], 1, 1), sample)

    def shift_up_left(self, x: Tensor) -> Tensor:
        """Drop the first row and column, and append a row and a column of zeros."""
        bounds = {"starts": [1, 1], "ends": [x.shape[2], x.shape[3]], "axes": [2, 3]}
        indices = {name: np.asarray(values, np.int64) for name, values in bounds.items()}
        shape = (*x.shape[:2], x.shape[2] - 1, x.shape[3] - 1)
        cropped = self._add("Slice", [x], shape, x.sample[:, :, 1:, 1:], indices)
        pads = {"pads": np.asarray([0, 0, 0, 0, 0, 0, 1, 1], np.int64)}
        sample = np.pad(cropped.sample, ((0, 0), (0, 0), (0, 1), (0, 1)))
        return self._add("Pad", [cropped], x.shape, sample, pads)

    def flatten(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], int(np.prod(x.shape[1:])))
        return self._add("Flatten", [x], shape, x.sample.reshape(len(x.sample), -1), axis=1)

    def dense(self, x: Tensor, features: int) -> Tensor:
        """Fully connected layer with a bias, on ``[batch, features]``."""
        weights = {
            "weight": self._normal((features, x.channels), x.channels**-0.5),
            "bias": self._normal((features,), 0.1),
        }
        weight, bias = (value.astype(np.float64) for value in weights.values())
        sample = x.sample @ weight.T + bias
        return self._add("Gemm", [x], (x.shape[0], features), sample, weights, transB=1)

    def model(self, name: str, output: Tensor, output_name: str = "output") -> onnx.ModelProto:
        """Finish: the last node's result becomes the model's output."""
        self._nodes[-1].output[0] = output_name
        result = helper.make_tensor_value_info(output_name, TensorProto.FLOAT, output.shape)
        graph = helper.make_graph(self._nodes, name, self._inputs, [result], self._initializers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="hios-tvm",
        )

    def _add(
        self,
        op: str,
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        sample: Array,
        weights: Mapping[str, npt.NDArray[np.generic]] | None = None,
        /,
        **attributes: object,
    ) -> Tensor:
        name = "/".join([*self._scopes, op.lower()])
        self._names[name] += 1
        if self._names[name] > 1:
            name = f"{name}_{self._names[name]}"
        names = [tensor.name for tensor in inputs]
        for role, value in (weights or {}).items():
            self._initializers.append(numpy_helper.from_array(value, f"{name}.{role}"))
            names.append(f"{name}.{role}")
        self._nodes.append(helper.make_node(op, names, [name], name=name, **attributes))
        return Tensor(name, shape, sample)

    def _normal(self, shape: tuple[int, ...], deviation: float) -> Weights:
        return self.rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


@dataclass(frozen=True)
class _Window:
    """How a kernel walks over an image: along each axis its size, its step and the border."""

    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int] | Literal["same"]
    ceil_mode: bool

    @classmethod
    def of(
        cls, kernel: int | tuple[int, int], stride: int, padding: Padding, ceil_mode: bool = False
    ) -> _Window:
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (padding, padding) if isinstance(padding, int) else padding
        return cls(kernel, stride, padding, ceil_mode)

    def pads(self, image: Sequence[int]) -> Pads:
        """Rows and columns of border for an image of (height, width)."""
        if self.padding != "same":
            (rows, columns) = self.padding
            return (rows, rows), (columns, columns)
        rows, columns = (
            max((-(-size // self.stride) - 1) * self.stride + kernel - size, 0)
            for size, kernel in zip(image, self.kernel, strict=True)
        )
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)

    def overhang(self, image: Sequence[int]) -> tuple[int, int]:
        """Rows and columns that the last step of a pool with `ceil_mode` lacks."""
        if not self.ceil_mode:
            return 0, 0
        rows, columns = (-rest % self.stride for rest in self._rests(image))
        return rows, columns

    def output(self, image: Sequence[int]) -> tuple[int, int]:
        rows, columns = (
            (rest + lack) // self.stride + 1
            for rest, lack in zip(self._rests(image), self.overhang(image), strict=True)
        )
        return rows, columns

    def attributes(self, x: Tensor) -> dict[str, object]:
        (top, bottom), (left, right) = self.pads(x.shape[2:])
        return {
            "kernel_shape": list(self.kernel),
            "strides": [self.stride, self.stride],
            "pads": [top, left, bottom, right],
        }

    def _rests(self, image: Sequence[int]) -> list[int]:
        """How far the kernel can move from its first position, along each axis."""
        return [
            size + before + after - kernel
            for size, (before, after), kernel in zip(
                image, self.pads(image), self.kernel, strict=True
            )
        ]


def _rounded(values: Array) -> Array:
    """Each value to three significant digits."""
    return np.asarray([float(f"{value:.3g}") for value in values])
