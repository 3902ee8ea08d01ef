"""A folder with the smallest wrong model: what a report of the fault needs."""

import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm

from hios_tvm.errors import UsageError
from hios_tvm.runtime.machine import describe_machine
from hios_tvm.verification.deviation import Arrays, deviations
from hios_tvm.verification.first_difference import Difference
from hios_tvm.version import __version__

README = "README.txt"


@dataclass(frozen=True)
class CompileWords:
    """The options that make a compile for one device use the kernels of an artifact."""

    device: str
    target: str
    precision: str
    database: Path | None
    merge_convolutions: bool

    def options(self) -> str:
        """Return them as options of ``hios-tvm compile``."""
        words = [f"--devices {self.device}", f"--target {self.target}"]
        if self.precision != "fp32":
            words.append(f"--precision {self.precision}")
        if self.database is not None:
            words.append(f"--database {shlex.quote(str(self.database.resolve()))}")
        if self.merge_convolutions:
            words.append("--merge-convolutions")
        return " ".join(words)

    def arguments(self) -> str:
        """Return them as arguments of `CompileOptions`."""
        words = [f"devices=({self.device!r},)", f"target={self.target!r}"]
        words.append(f"precision={self.precision!r}")
        if self.database is not None:
            words.append(f"database=Path({str(self.database.resolve())!r})")
        if self.merge_convolutions:
            words.append("merge_convolutions=True")
        return ", ".join(words)


def write_reproducer(
    folder: Path, difference: Difference, runner: str, words: CompileWords, message: str
) -> None:
    """Write the model, ``inputs.npz``, ``expected.npz``, and how to see the difference.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    difference : Difference
    runner : str
        What the expected outputs come from.
    words : CompileWords
    message : str
        What was found.

    Raises
    ------
    UsageError
        If the folder cannot be written.
    """
    worst = _worst_draw(difference)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model = difference.model.save(folder)
        _save_arrays(folder / "inputs.npz", difference.inputs[worst])
        _save_arrays(folder / "expected.npz", difference.expected[worst])
        (folder / README).write_text(_readme(model, words, runner, message))
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error}") from error


def _worst_draw(difference: Difference) -> int:
    def badness(draw: int) -> tuple[bool, float, int]:
        if any(found.shapes is not None for found in difference.judgement.deviations):
            return True, 0.0, 0  # all draws have wrong shapes
        found = deviations(difference.outputs[draw], difference.expected[draw])
        error = max(output.max_error for output in found)
        unequal = sum(output.unequal for output in found)
        return not np.isfinite(error), 0.0 if np.isnan(error) else error, unequal

    return max(range(len(difference.inputs)), key=badness)


def _save_arrays(path: Path, arrays: Arrays) -> None:
    """Write a .npz file; unlike `np.savez`, under any names."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def _readme(model: Path, words: CompileWords, runner: str, message: str) -> str:
    return f"""{message}

{model.name} is the smallest model that was found to show it, inputs.npz are its inputs, and
expected.npz are the outputs of {runner}. To see the difference, here:

{_compile_command(model, words)}
hios-tvm run wrong.hios --input inputs.npz --verify expected.npz

hios-tvm {__version__}, TVM {tvm.__version__}, {runner}
{describe_machine()}
"""


def _compile_command(model: Path, words: CompileWords) -> str:
    if model.suffix == ".onnx":
        return f"hios-tvm compile {model.name} -o wrong.hios --no-verify {words.options()}"
    return f"""python - <<'END'
import tvm
from pathlib import Path
from hios_tvm import CompileOptions, compile_model
module = tvm.ir.load_json(Path("{model.name}").read_text())
compile_model(module, Path("wrong.hios"), CompileOptions({words.arguments()}))
END"""
