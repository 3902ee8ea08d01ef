"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import numpy as np
from click.shell_completion import CompletionItem
from rich import box
from rich.table import Table

from hios_tvm.cli.console import stdout
from hios_tvm.cli.devices import DeviceList, TextParameter, require_here
from hios_tvm.cli.numbers import FiniteRange, parse_range
from hios_tvm.errors import UsageError
from hios_tvm.runtime.signature import required_key
from hios_tvm.schema.device_names import split_devices
from hios_tvm.schema.memory_limits import parse_bytes
from hios_tvm.schema.precisions import PRECISIONS

if TYPE_CHECKING:
    from tvm.ir import IRModule

    from hios_tvm.frontends.shapes import Size
    from hios_tvm.runtime.session import Session
    from hios_tvm.schema.manifest import Manifest

F = TypeVar("F", bound=Callable[..., Any])

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that gives a command all of these, listed in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


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
            group = kind(**{name: values.pop(name) for name in names if name in values})
            return function(*arguments, **{argument: group}, **values)

        return together(*options)(cast(F, wrapper))

    return decorate


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model as a frontend reads it, with what the file leaves open."""

    model: Path
    shape_words: tuple[str, ...] = ()
    params: Path | None = None

    @property
    def sizes(self) -> dict[str, tuple[Size, ...]]:
        """The given shapes of inputs by name, in which a dimension may have several sizes."""
        from hios_tvm.frontends.shapes import parse_shape

        return dict(map(parse_shape, self.shape_words))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The given shapes of inputs by name; `UsageError` where one has several sizes."""
        from hios_tvm.frontends.shapes import one_shape

        return one_shape(self.sizes)

    def load(self) -> IRModule:
        """Import the model."""
        from hios_tvm.frontends import load_model

        return load_model(self.model, shapes=self.shapes, params=self.params)


model_options = option_group(
    ModelFile,
    click.argument("model", type=EXISTING_FILE),
    click.option(
        "--shape",
        "shape_words",
        multiple=True,
        metavar="NAME:DIMS",
        help="Shape of an ONNX input with symbolic dimensions, for example input:1,3,224,224. "
        "For compile a dimension may also be a range of sizes of a batch, 1..8, or a list of "
        "sizes, {32,64}. Repeatable.",
    ),
    click.option("--params", type=EXISTING_FILE, help="Parameters of a Relay program."),
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an artifact is run on: arrays from files, random numbers for what they leave open."""

    files: tuple[str, ...]
    seed: int
    value_range: str | None
    run_shapes: tuple[str, ...] = ()

    def arrays(self, session: Session) -> dict[str, np.ndarray]:
        """Return the inputs of `session` by name.

        Raises
        ------
        UsageError
            If an option cannot be understood, a file cannot be read, or a name is unknown.
        """
        from hios_tvm.frontends.shapes import one_shape, parse_shape
        from hios_tvm.verification.inputs import given_inputs

        shapes = one_shape(dict(map(parse_shape, self.run_shapes)))
        specs = [replace(spec, shape=shapes.pop(spec.name, spec.shape)) for spec in session.inputs]
        if shapes:
            raise UsageError(f"--shape: the artifact has no input {next(iter(shapes))!r}")
        return given_inputs(self.files, specs, self.seed, parse_range(self.value_range))


_INPUT_OPTIONS = (
    click.option(
        "--input",
        "files",
        multiple=True,
        metavar="NAME=FILE",
        help="An input from a .npy file (or FILE.npz with all of them). Repeatable; inputs "
        "that are not given are random.",
    ),
    click.option("--seed", default=0, type=click.IntRange(0), help="Seed of random inputs."),
    click.option(
        "--range",
        "value_range",
        metavar="LOW,HIGH",
        help="Draw random inputs uniformly from this range.  [default: standard normal]",
    ),
)

input_options = option_group(Inputs, *_INPUT_OPTIONS)

shaped_input_options = option_group(
    Inputs,
    *_INPUT_OPTIONS,
    click.option(
        "--shape",
        "run_shapes",
        multiple=True,
        metavar="NAME:DIMS",
        help="Shape of a random input, where the artifact takes several.  [default: the largest]",
    ),
)


def check_key(verify_key: Path | None, require_signature: bool) -> None:
    """Refuse ``--require-signature`` without a key."""
    if require_signature and required_key(verify_key) is None:
        raise UsageError(
            "--require-signature needs a key: give --verify-key, or set HIOS_REQUIRE_SIGNATURE"
        )


@dataclass(frozen=True, kw_only=True)
class ArtifactFile:
    """An artifact, and how it is loaded."""

    artifact: Path
    devices: str | None = None
    verify_key: Path | None = None
    require_signature: bool = False

    def __post_init__(self) -> None:
        check_key(self.verify_key, self.require_signature)

    def read(self) -> Manifest:
        """Return its manifest; nothing of the artifact is executed."""
        from hios_tvm.runtime.read_artifact import read_manifest

        return read_manifest(self.artifact, verify_key=self.verify_key)

    def load(self, **options: Any) -> Session:
        """Load it on the given devices, with more options of `load`."""
        devices = None if self.devices is None else split_devices(self.devices)
        require_here(devices or ())
        from hios_tvm import runtime

        return runtime.load(self.artifact, devices=devices, verify_key=self.verify_key, **options)


verify_key_option = click.option(
    "--verify-key",
    type=EXISTING_FILE,
    help="Public key (PEM): refuse an artifact that its owner did not sign.",
)

require_signature_option = click.option(
    "--require-signature",
    is_flag=True,
    help="Do nothing without a key: with --verify-key, or with the environment variable "
    "HIOS_REQUIRE_SIGNATURE, which names the key's file for all commands and programs.",
)

artifact_options = option_group(
    ArtifactFile,
    click.argument("artifact", type=EXISTING_FILE),
    click.option(
        "--devices", type=DeviceList(), help="Run on these devices instead of those of the compile."
    ),
    verify_key_option,
    require_signature_option,
)

max_memory_option = click.option(
    "--max-memory",
    metavar="SIZE",
    callback=lambda _context, _option, text: None if text is None else parse_bytes(text),
    help="What this process may take, for example 8GiB: a model that needs more is refused.  "
    "[default: what is free]",
)

json_option = click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write the result as JSON, to standard output or into FILE.",
)

no_progress_option = click.option("--no-progress", is_flag=True, help="Draw no progress bar.")

precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    help="What convolutions and products round their factors to: on GPUs tf32 or fp16, for tensor "
    "cores, on CPUs with AVX512-BF16 bf16; sums stay in single precision.",
)

rtol_option = click.option(
    "--rtol",
    type=FiniteRange(0),
    help="Largest error of the comparison, over the largest magnitude of an output.  [default: "
    "1e-4, or what suits half precision or --precision]",
)

cuda_graph_option = click.option(
    "--cuda-graph/--no-cuda-graph",
    default=None,
    help="Start all work of the GPUs at once, as a CUDA graph; no CPU may have any.  [default: "
    "where no CPU has any, and no trace is written]",
)

cost_cache_option = click.option(
    "--cost-cache",
    type=FOLDER,
    help="Folder of measured costs and compiled kernels.  [default: the user's cache folder]",
)


class SchedulerName(TextParameter):
    """A scheduler, which shells complete."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from hios_tvm.schedulers import SCHEDULERS

        if value not in SCHEDULERS:
            near = [name for name in SCHEDULERS if name.startswith(str(value))]
            near = near or get_close_matches(str(value), SCHEDULERS, 1)
            known = ", ".join(SCHEDULERS)
            hint = f": did you mean {' or '.join(near)}?" if near else f"; known are {known}"
            self.fail(f"scheduler {value!r} is unknown{hint}", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return complete_schedulers(ctx, param, incomplete)


def complete_schedulers(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the schedulers as completions of the last of several names."""
    from hios_tvm.schedulers import SCHEDULERS

    before, comma, last = incomplete.rpartition(",")
    return [
        CompletionItem(f"{before}{comma}{name}") for name in SCHEDULERS if name.startswith(last)
    ]


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

    return together(
        click.option(
            "--window", type=click.IntRange(1), help="Operators that are grouped at most."
        ),
        click.option("--inter-only", is_flag=True, help="Leave the window out: no stream groups."),
        click.option(
            "--option",
            "pairs",
            multiple=True,
            metavar="NAME=VALUE",
            help="Any option of the schedulers that have it, for example max-streams=3. "
            "Repeatable.",
        ),
    )(cast(F, wrapper))


def print_json(data: Any, json_file: str) -> None:
    """Write `data` where ``--json`` says."""
    text = json.dumps(data, indent=1)
    if json_file == "-":
        click.echo(text)
    else:
        Path(json_file).write_text(text + "\n")


def duration(seconds: float) -> str:
    """Write a time for people.

    >>> duration(8.4), duration(100), duration(10000)
    ('8 s', '2 min', '2.8 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column is text, the others are numbers.

    Long heads have two lines, so that the table fits into 80 columns.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for i, column in enumerate(columns):
        head = column.replace(" ", "\n", 1)
        table.add_column(head, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    stdout().print(table)
