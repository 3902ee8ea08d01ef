from __future__ import annotations

import numpy as np
import pytest
from lowered_models import run_module
from tvm import relax
from tvm.ir import IRModule

from hios_tvm.backends.cpu.targets import host_target, parse_target
from hios_tvm.backends.network import lower


def padded_bytes(shape: tuple[int, int, int, int], padding: int) -> IRModule:
    """Channels-first floats, as bytes with four channels that are last, within a border of 200."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x], {"input_names": ["x"], "output_names": ["y"]}):
        with builder.dataflow():
            steps = relax.op.minimum(relax.op.round(x), relax.const(255.0))
            y = relax.op.astype(relax.op.maximum(steps, relax.const(0.0)), "uint8")
            widths = [0, 0, 0, 4 - shape[1], *[padding] * 4]
            y = relax.op.nn.pad(y, widths, "constant", 200)
            y = builder.emit_output(relax.op.permute_dims(y, [0, 2, 3, 1]))
        builder.emit_func_output(y)
    return builder.get()


@pytest.mark.parametrize("target", ["host", "portable"])
@pytest.mark.parametrize(("channels", "padding"), [(3, 3), (1, 0), (4, 1)])
def test_pixels_are_written_as_words(target: str, channels: int, padding: int) -> None:
    cpu = host_target() if target == "host" else parse_target(target)
    shape = (2, channels, 5, 37)
    mod = lower(padded_bytes(shape, padding), cpu)
    kernels = [func.script() for _, func in mod.functions_items() if "words = " in func.script()]
    assert len(kernels) == 1
    x = np.random.default_rng(0).uniform(-90, 300, shape).astype("float32")
    (result,) = run_module(mod, {"x": x}, cpu)
    whole = np.clip(np.rint(x), 0, 255).astype("uint8")
    border = [(padding, padding)] * 2
    padded = np.pad(whole, [(0, 0), (0, 4 - channels), *border], constant_values=200)
    np.testing.assert_array_equal(result, padded.transpose(0, 2, 3, 1))
