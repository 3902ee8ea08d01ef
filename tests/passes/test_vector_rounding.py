from __future__ import annotations

import numpy as np
from lowered_models import run_module
from tvm import relax

from hios_tvm.backends.cpu.targets import host_target
from hios_tvm.backends.network import lower


def test_halves_are_rounded_to_even_numbers() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((37,), "float32"))
    with builder.function("main", [x], {"input_names": ["x"], "output_names": ["f", "i"]}):
        with builder.dataflow():
            rounded = builder.emit(relax.op.round(x))
            floats = builder.emit_output(relax.op.add(rounded, relax.const(1.0)))
            whole = builder.emit_output(relax.op.astype(rounded, "int32"))
        builder.emit_func_output(relax.Tuple([floats, whole]))
    target = host_target()
    mod = lower(builder.get(), target)
    assert "T.nearbyint(" not in mod.script()
    data = np.linspace(-4.5, 4.5, 37, dtype="float32")
    floats, whole = run_module(mod, {"x": data}, target)
    np.testing.assert_array_equal(floats, np.rint(data) + 1)
    np.testing.assert_array_equal(whole, np.rint(data).astype("int32"))
