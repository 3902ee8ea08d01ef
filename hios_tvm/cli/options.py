"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from hios_tvm.errors import UsageError
from hios_tvm.schema.gpu_models import PRECISIONS

if TYPE_CHECKING:
    from tvm.ir import IRModule

F = TypeVar("F", bound=Callable[..., Any])

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@dataclass(frozen=True)
class ModelFile:
    """A model as a frontend reads it, with what the file leaves open."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    params: Path | None

    def load(self) -> IRModule:
        """Import the model."""
        from hios_tvm.frontends import load_model

        return load_model(self.path, shapes=self.shapes, params=self.params)


def model_options(function: F) -> F:
    """``MODEL``, ``--shape`` and ``--params``, as the one argument `model_file`."""

    @wraps(function)
    def wrapper(
        *arguments: Any, model: Path, shapes: tuple[str, ...], params: Path | None, **others: Any
    ) -> Any:
        from hios_tvm.frontends.shapes import parse_shape

        model_file = ModelFile(model, dict(map(parse_shape, shapes)), params)
        return function(*arguments, model_file=model_file, **others)

    for option in (
        click.option("--params", type=EXISTING_FILE, help="Parameters of a Relay program."),
        click.option(
            "--shape",
            "shapes",
            multiple=True,
            metavar="NAME:DIMS",
            help="Shape of an ONNX input with symbolic dimensions, for example input:1,3,224,224. "
            "Repeatable.",
        ),
        click.argument("model", type=EXISTING_FILE),
    ):
        wrapper = option(wrapper)
    return cast(F, wrapper)


def option_group(kind: type[Any], *options: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that gives a command `options` as one argument.

    The argument is called as the class `kind` (``CostSource`` becomes `cost_source`), and the
    class has a field for each option.
    """
    argument = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    names = [field.name for field in fields(kind)]

    def decorate(function: F) -> F:
        @wraps(function)
        def wrapper(*arguments: Any, **values: Any) -> Any:
            group = kind(**{name: values.pop(name) for name in names})
            return function(*arguments, **{argument: group}, **values)

        decorated = cast(F, wrapper)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def stdout() -> Console:
    """The console for results; wide enough for tables where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def stderr() -> Console:
    """The console for progress and messages."""
    return Console(stderr=True, highlight=False)


def json_option(function: F) -> F:
    """``--json [FILE]``: the result for machines, on standard output or into a file."""
    return click.option(
        "--json",
        "json_file",
        is_flag=False,
        flag_value="-",
        metavar="[FILE]",
        help="Write the result as JSON, to standard output or into FILE.",
    )(function)


def precision_option(function: F) -> F:
    """``--precision``: what factors of products are rounded to on GPUs."""
    return click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="fp32",
        show_default=True,
        help="Of GPUs' convolutions and products: tf32 and fp16 round their factors and run on "
        "tensor cores; sums stay in single precision.",
    )(function)


def cuda_graph_option(function: F) -> F:
    """``--cuda-graph``: one launch starts all work of the GPUs."""
    return click.option(
        "--cuda-graph",
        is_flag=True,
        help="Start all work of the GPUs at once, as a CUDA graph; no CPU may have any.",
    )(function)


def verify_key_option(function: F) -> F:
    """``--verify-key FILE``: refuse an artifact that the owner of the key did not sign."""
    return click.option(
        "--verify-key",
        type=EXISTING_FILE,
        help="Public key (PEM): refuse an artifact that its owner did not sign.",
    )(function)


def print_json(data: Any, json_file: str) -> None:
    """Write `data` where ``--json`` says."""
    text = json.dumps(data, indent=1)
    if json_file == "-":
        click.echo(text)
    else:
        Path(json_file).write_text(text + "\n")


def milliseconds(value: float) -> str:
    """Write a time with three or more significant digits.

    >>> milliseconds(12.3456), milliseconds(0.0123456)
    ('12.35 ms', '0.0123 ms')
    """
    return f"{value:.2f} ms" if value >= 1 else f"{value:.3g} ms"


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    stdout().print(table)


def input_options(function: F) -> F:
    """``--input``, ``--seed`` and ``--range``: what to run the model on."""
    for option in (
        click.option(
            "--range",
            "value_range",
            metavar="LOW,HIGH",
            help="Draw random inputs uniformly from this range.  [default: standard normal]",
        ),
        click.option("--seed", default=0, show_default=True, help="Seed of random inputs."),
        click.option(
            "--input",
            "inputs",
            multiple=True,
            metavar="NAME=FILE",
            help="An input from a .npy file (or FILE.npz with all of them). Repeatable; inputs "
            "that are not given are random.",
        ),
    ):
        function = option(function)
    return function


def timing_options(function: F) -> F:
    """``--iterations``, ``--duration`` and ``--warmup``, as trtexec has them."""
    for option in (
        click.option(
            "--warmup",
            default=10,
            show_default=True,
            type=click.IntRange(0),
            help="Runs before measuring.",
        ),
        click.option(
            "--duration",
            default=3.0,
            show_default=True,
            type=click.FloatRange(0),
            help="Measure for at least this many seconds.",
        ),
        click.option(
            "--iterations",
            default=50,
            show_default=True,
            type=click.IntRange(1),
            help="Measure at least this many runs.",
        ),
    ):
        function = option(function)
    return function


def scheduler_options(function: F) -> F:
    """``--window``, ``--inter-only`` and ``--option``, as the one argument `options`."""

    @wraps(function)
    def wrapper(
        *arguments: Any,
        window: int | None,
        inter_only: bool,
        pairs: tuple[str, ...],
        **others: Any,
    ) -> Any:
        from hios_tvm.experiments.comparison import parse_option

        options = dict(parse_option(pair) for pair in pairs)
        if window is not None:
            options["window"] = window
        if inter_only:
            options["inter_only"] = True
        return function(*arguments, options=options, **others)

    for option in (
        click.option(
            "--option",
            "pairs",
            multiple=True,
            metavar="NAME=VALUE",
            help="Any option of the schedulers that have it, for example max-streams=3. "
            "Repeatable.",
        ),
        click.option("--inter-only", is_flag=True, help="Leave the window out: no stream groups."),
        click.option(
            "--window", type=click.IntRange(1), help="Operators that are grouped at most."
        ),
    ):
        wrapper = option(wrapper)
    return cast(F, wrapper)


def load_inputs(
    inputs: tuple[str, ...],
    specs: list[tuple[str, tuple[int, ...], str]],
    seed: int,
    value_range: str | None,
) -> dict[str, np.ndarray]:
    """Read the files of ``--input`` and draw what they leave open.

    Raises
    ------
    UsageError
        If an option cannot be understood, a file cannot be read, or a name is unknown.
    """
    from hios_tvm.verification.inputs import random_inputs

    given: dict[str, np.ndarray] = {}
    for option in inputs:
        name, equals, file = option.rpartition("=")
        loaded = _load(Path(file if equals else option))
        if isinstance(loaded, dict):
            given.update(loaded)
        elif equals:
            given[name] = loaded
        else:
            raise UsageError(f"--input {option}: write NAME={option}")
    unknown = given.keys() - {name for name, _, _ in specs}
    if unknown:
        raise UsageError(
            f"unknown inputs {', '.join(sorted(unknown))}; the model has "
            f"{', '.join(name for name, _, _ in specs)}"
        )
    missing = [spec for spec in specs if spec[0] not in given]
    return {**random_inputs(missing, seed, _parse_range(value_range)), **given}


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"cannot read {path} as .npy or .npz: {error}") from error


def _parse_range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--range {text}: write two numbers, for example -1,1") from None
    if low > high:
        raise UsageError(f"--range {text}: the first number is larger than the second")
    return low, high
