from __future__ import annotations

import numpy as np


def test_outputs_equal_numpy(hand_made, session, x):
    outputs = session.run({"the input": x})
    assert list(outputs) == ["y", "z", "x again"]
    for name, expected in hand_made.expected(x).items():
        np.testing.assert_array_equal(outputs[name], expected)
