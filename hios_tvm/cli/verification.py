"""``run --verify``: outputs against an ONNX model or recorded outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hios_tvm.cli.console import stdout
from hios_tvm.errors import ExecutionError, UsageError
from hios_tvm.runtime.numpy_files import read_numpy
from hios_tvm.schema.recipe import Recipe
from hios_tvm.verification.deviation import (
    Arrays,
    Rule,
    Tolerance,
    deviations,
    rounded_numbers,
    tolerance_of,
)
from hios_tvm.verification.judgement import Judgement, judge

if TYPE_CHECKING:
    from hios_tvm.verification.onnx_reference import OnnxReference

_REASONS: Mapping[Rule | None, str] = {
    "tolerance": "",
    "one step": ", one step of quantization, in 1 % of the elements",
    "spread": ", four times what rounding alone does in the model",
    None: "",
}
"""Why more than the tolerance is allowed."""


@dataclass(frozen=True)
class Expected:
    """What outputs are compared with: an ONNX model, or outputs that were recorded for it."""

    path: Path
    model: OnnxReference | None = None
    recorded: Arrays | None = None

    @staticmethod
    def read(path: Path) -> Expected:
        """Read a file, before there is anything to compare.

        Raises
        ------
        UsageError
            If it is of another kind, damaged, or needs ONNX Runtime, which is not installed.
        """
        if path.suffix == ".npz":
            recorded = read_numpy(path)
            return Expected(path, recorded=recorded if isinstance(recorded, dict) else {})
        if path.suffix != ".onnx":
            raise UsageError(f"--verify needs an ONNX model or recorded outputs (.npz), not {path}")
        from hios_tvm.verification.onnx_reference import OnnxReference

        model = OnnxReference(path)
        _ = model.runner
        return Expected(path, model=model)

    @property
    def source(self) -> str:
        """What runs are compared with, in words."""
        if self.model is None:
            return f"compared with the outputs in {self.path}"
        return f"compared with {self.path} on {self.model.runner}"

    def judge(self, outputs: Arrays, inputs: Arrays, tolerance: Tolerance) -> Judgement:
        """Compare `outputs`; a model is run again where they differ, to see what rounding does.

        Raises
        ------
        UsageError
            If recorded outputs have other names or shapes.
        """
        if self.model is None:
            return Judgement(deviations(outputs, self.recorded or {}), tolerance)
        expected = self.model.run(inputs)
        return judge([outputs], [inputs], [expected], self.model, tolerance)


def check_outputs(
    outputs: Arrays, inputs: Arrays, expected: Expected, recipe: Recipe, rtol: float | None
) -> None:
    """Print what `outputs` are compared with, how far they are from it, and may be.

    `recipe` is how their artifact was compiled; `rtol` takes the place of its tolerance.

    Raises
    ------
    ExecutionError
        If an output differs by more.
    """
    found = expected.judge(outputs, inputs, tolerance_of(recipe, rtol))
    stdout().print("; ".join([expected.source, *rounded_numbers(recipe)]), soft_wrap=True)
    for one in found.deviations:
        stdout().print(
            f"{one.output}: largest error {one.max_error:.1e} of the largest magnitude, cosine "
            f"{one.cosine:.6f}; allowed {found.allowed(one):.1e}{_REASONS[found.rule(one)]}",
            soft_wrap=True,
        )
    wrong = [one.output for one in found.wrong]
    if not wrong:
        return
    message = f"{', '.join(wrong)} differ from {expected.path} by more than that"
    if expected.path.suffix == ".onnx":
        message += (
            f"; hios-tvm compile {expected.path} --dump-reproducer FOLDER finds the first operator "
            "that differs"
        )
    raise ExecutionError(message)
