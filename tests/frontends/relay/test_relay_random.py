"""Random small Relay programs: the kernels of this project against TVM's default pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from relay_programs import assert_close, numbers, relay_text, run_lowered, run_module

from hios_tvm.frontends.relay import from_relay

CHANNELS = (1, 3, 8, 17)
SIZES = ((5, 7), (8, 8), (1, 9))
UNARY = ("nn.relu", "sigmoid", "tanh", "negative", "nn.leaky_relu")
BINARY = ("add", "multiply", "subtract", "maximum")


@dataclass
class Program:
    """A chain of operators on an image, with branches that join it again."""

    rng: np.random.Generator
    has_gates: bool
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def pick(self, *values: str) -> str:
        return str(values[self.rng.integers(len(values))])

    def tensor(self, *shape: int) -> str:
        name = f"w{len(self.arrays)}"
        self.arrays[name] = numbers(*shape, seed=len(self.arrays)) / np.float32(2)
        return f"%{name}"

    def bind(self, expression: str) -> str:
        self.lines.append(f"  %{len(self.lines)} = {expression};")
        return f"%{len(self.lines) - 1}"

    def grow(self, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """Append one random block to `x`, of `shape`."""
        blocks = [self.convolution, self.residual, self.pool, self.spread, self.unary]
        blocks += [self.gate] * (2 * self.has_gates)
        return blocks[self.rng.integers(len(blocks))](x, shape)

    def unary(self, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        return self.bind(f"{self.pick(*UNARY)}({x})"), shape

    def convolution(self, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        batch, inputs, *size = shape
        outputs = CHANNELS[self.rng.integers(len(CHANNELS))]
        kernel = int(self.pick("1", "3"))
        weight = self.tensor(outputs, inputs, kernel, kernel)
        pad = kernel // 2
        y = self.bind(
            f"nn.conv2d({x}, {weight}, padding=[{pad}, {pad}, {pad}, {pad}], "
            f"channels={outputs}, kernel_size=[{kernel}, {kernel}])"
        )
        if self.rng.integers(2):
            y = self.bind(f"nn.bias_add({y}, {self.tensor(outputs)})")
        return y, (batch, outputs, *size)

    def gate(self, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """A branch whose result broadcasts upwards: along channels, or along the image."""
        channels = shape[1]
        if self.rng.integers(2):
            small = self.bind(f"nn.global_avg_pool2d({x})")
            weight = self.tensor(channels, channels, 1, 1)
            outputs, pad = channels, 0
        else:
            small, outputs, pad = x, 1, 1
            weight = self.tensor(1, channels, 3, 3)
        y = self.bind(
            f"nn.conv2d({small}, {weight}, padding=[{pad}, {pad}, {pad}, {pad}], "
            f"channels={outputs}, kernel_size=[{2 * pad + 1}, {2 * pad + 1}])"
        )
        y = self.bind(f"{self.pick('sigmoid', 'tanh')}({y})")
        operands = (x, y) if self.rng.integers(2) else (y, x)
        return self.bind(f"{self.pick(*BINARY)}({', '.join(operands)})"), shape

    def residual(self, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        y, branch = self.convolution(x, shape)
        if branch != shape:
            weight = self.tensor(shape[1], branch[1], 1, 1)
            y = self.bind(
                f"nn.conv2d({y}, {weight}, padding=[0, 0, 0, 0], "
                f"channels={shape[1]}, kernel_size=[1, 1])"
            )
        return self.bind(f"{self.pick(*BINARY)}({y}, {x})"), shape

    def pool(self, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """Windows that may reach over the border."""
        batch, channels, *size = shape
        pad, ceil = int(self.rng.integers(2)), bool(self.rng.integers(2))
        stride = int(self.pick("1", "2"))
        kind = self.pick("max", "avg")
        include = "" if kind == "max" else f", count_include_pad={bool(self.rng.integers(2))}"
        if min(size) + 2 * pad < 3:
            return x, shape
        y = self.bind(
            f"nn.{kind}_pool2d({x}, pool_size=[3, 3], strides=[{stride}, {stride}], "
            f"padding=[{pad}, {pad}, {pad}, {pad}], ceil_mode={ceil}{include})"
        )
        extra = stride - 1 if ceil else 0
        new = [(extent + 2 * pad - 3 + extra) // stride + 1 for extent in size]
        return y, (batch, channels, *new)

    def spread(self, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """A tensor of rank 1 or 0 on either side."""
        small = self.tensor(*self.pick("", str(shape[-1])).split() and (shape[-1],))
        operands = (x, small) if self.rng.integers(2) else (small, x)
        return self.bind(f"{self.pick(*BINARY)}({', '.join(operands)})"), shape


def program(seed: int, has_gates: bool) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Text, inputs, and weights of a program."""
    made = Program(np.random.default_rng(seed), has_gates)
    batch = int(made.pick("1", "2"))
    size = SIZES[made.rng.integers(len(SIZES))]
    shape: tuple[int, ...] = (batch, CHANNELS[made.rng.integers(len(CHANNELS))], *size)
    inputs = {"x": numbers(*shape, seed=seed)}
    value = "%x"
    for _ in range(5):
        value, shape = made.grow(value, shape)
    body = "\n".join([*made.lines, f"  {value}"])
    return relay_text(body, {**inputs, **made.arrays}), inputs, made.arrays


@pytest.mark.parametrize("seed", range(8))
def test_random_programs(seed: int) -> None:
    assert_kernels_agree(*program(seed, has_gates=False))


@pytest.mark.parametrize("seed", [0, 1])
def test_random_programs_with_gates(seed: int) -> None:
    assert_kernels_agree(*program(seed, has_gates=True))


def assert_kernels_agree(
    text: str, inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray]
) -> None:
    module = from_relay(text, weights)
    (ours,), (theirs,) = run_lowered(module, inputs), run_module(module, inputs)
    assert_close(ours, theirs)
