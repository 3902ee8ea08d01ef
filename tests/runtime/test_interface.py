"""Outputs that no kernel writes for them alone, and inputs that kernels cannot read in place."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from hand_made import LENGTH, HandMade, make_manifest

from hios_tvm import runtime
from hios_tvm.artifact.write import pack, write
from hios_tvm.runtime.interface import Interface
from hios_tvm.runtime.memory import TensorTable, address_of
from hios_tvm.schema.manifest import TensorSpec


def test_every_output_is_an_array_of_its_own(
    hand_made: HandMade, tmp_path: Path, x: np.ndarray
) -> None:
    """A result twice, the input twice, a weight twice, in an order that mixes them."""
    buffers = {"a": "y", "b": "x", "c": "w", "d": "y", "e": "w", "f": "x", "g": "z"}
    specs = [TensorSpec(name, at, (LENGTH,), "float32") for name, at in buffers.items()]
    manifest = replace(make_manifest(), outputs=tuple(specs))
    path = tmp_path / "outputs.hios"
    libraries = dict.fromkeys(("cpu@0", "cpu@1"), hand_made.library)
    write(pack(manifest, libraries, {"w": hand_made.weight}), path)
    values = {**hand_made.expected(x), "x": x, "w": hand_made.weight}
    with runtime.load(path, devices=hand_made.devices) as session:
        for _ in range(2):
            outputs = session.run({"the input": x})
            assert list(outputs) == list(buffers)
            for name, buffer in buffers.items():
                np.testing.assert_array_equal(outputs[name], values[buffer])
            for first, second in combinations([x, *outputs.values()], 2):
                assert not np.shares_memory(first, second)


def test_only_inputs_that_are_not_aligned_are_copied(x: np.ndarray) -> None:
    manifest = replace(make_manifest(), outputs=())
    tensors = TensorTable({"x": ((LENGTH,), "float32")})
    interface = Interface(manifest, tensors, None, {})
    aligned = runtime.aligned_empty((LENGTH,), "float32")
    assert interface.place_inputs({"the input": aligned})[0] is aligned
    memory = runtime.aligned_empty((LENGTH + 1,), "float32")
    for other in (memory[1:], np.repeat(x, 2)[::2]):
        (placed,) = interface.place_inputs({"the input": other})
        assert not np.shares_memory(placed, other)
        assert address_of(placed) % 64 == 0
        np.testing.assert_array_equal(placed, other)
