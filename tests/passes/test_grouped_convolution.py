from __future__ import annotations

import pytest
from lowered_models import assert_lowers_right, kernels, lowered
from onnx import ModelProto
from test_convolution import convolution, tvm_assembly

from hios_tvm.backends.cpu.targets import parse_target

# Group widths of 2, 4 and 8, of which 8 fills a vector of AVX2; rows of several tiles, and of less
CASES = {
    "whole vectors": convolution((1, 64, 6, 17), 64, (3, 3), groups=16, pads=(1, 1, 1, 1)),
    "a narrower vector": convolution((2, 40, 9, 7), 40, (3, 3), groups=5, strides=(2, 2)),
    "less than a vector": convolution((1, 6, 5, 17), 6, (3, 2), groups=3, pads=(0, 3, 2, 3)),
    "one row": convolution(
        (1, 40, 1, 17), 40, (1, 5), groups=10, dilations=(1, 2), pads=(0, 4) * 2
    ),
    "one pixel": convolution((1, 24, 8, 8), 24, (1, 1), groups=3, activation=False),
}


@pytest.mark.parametrize("target", ["host", "portable"])
@pytest.mark.parametrize("model", CASES.values(), ids=CASES.keys())
def test_narrow_groups(model: ModelProto, target: str) -> None:
    assert_lowers_right(model, target=parse_target(target))


@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "kernel", "is_turned"),
    [
        (32, 32, 8, 3, True),
        (32, 32, 4, 3, False),  # a group fills a vector
        (32, 64, 8, 3, False),  # as many inputs as outputs only
        (24, 24, 8, 3, False),  # exclusive or leaves a group of 3
        (32, 32, 1, 3, False),
        (16, 16, 4, 13, False),  # a sum of too many terms for one block
    ],
)
def test_what_is_turned(
    channels: int, outputs: int, groups: int, kernel: int, is_turned: bool
) -> None:
    model = convolution((1, channels, 13, 13), outputs, (kernel, kernel), groups=groups)
    mod = lowered(model, parse_target("portable"))
    assert any("Shuffle" in mod[name].script() for name in kernels(mod)) == is_turned


def test_sums_and_weights_stay_in_registers() -> None:
    mod = lowered(convolution((1, 64, 14, 14), 64, (3, 3), groups=8, pads=(1, 1, 1, 1)))
    (name,) = (name for name in kernels(mod) if "conv2d" in name)
    lines = tvm_assembly(mod[name].with_attr("global_symbol", "kernel")).splitlines()
    products = [line for line in lines if "vfmadd" in line or "fmla" in line]
    assert products
    assert not [line for line in products if "(%rsp)" in line]
