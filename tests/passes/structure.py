"""Comparison of what a pass makes of a module with the module that is expected."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule


def assert_becomes(step: tvm.transform.Pass, before: IRModule, expected: IRModule) -> None:
    """`step` turns `before` into `expected`, up to names and second names of one value."""
    passes = tvm.transform.Sequential([step, relax.transform.CanonicalizeBindings()])
    tvm.ir.assert_structural_equal(passes(before), expected)
