"""The entry points of the Relay frontend."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tvm

from hios_tvm.errors import ModelError, RelayError
from hios_tvm.frontends.params import load_params
from hios_tvm.frontends.relay.converter import convert_program
from hios_tvm.frontends.relay.json_reader import NodeTable, parse_json_program
from hios_tvm.frontends.relay.parser import parse_program


def from_relay(text: str, params: Mapping[str, np.ndarray] | None = None) -> tvm.IRModule:
    """Import a Relay program in the text format that `mod.astext()` printed.

    Parameters
    ----------
    text : str
        The program, of TVM 0.7 to 0.19; constants need ``astext(show_meta_data=True)``.
    params : Mapping[str, np.ndarray], optional
        Values for parameters of ``@main`` by name; they become constants. All other parameters
        are inputs. Names that the program does not have are left out.

    Returns
    -------
    tvm.IRModule
        One Relax function ``main`` of a single dataflow block with static shapes, whose
        attributes `input_names` and `output_names` list the names.

    Raises
    ------
    UnsupportedOperatorError
        With all operators that cannot be imported, and where each is used.
    DynamicShapeError
        If an input has a dimension without a value.
    RelayError
        With line and column, if the text is damaged or breaks a rule of Relay.
    """
    try:
        program, source = parse_program(text)
        metadata = None
        if source.metadata is not None:
            metadata = NodeTable(source.metadata, source.metadata_line)
        return convert_program(program, params or {}, metadata)
    except RecursionError:
        raise RelayError("the program's types or patterns are nested too deeply") from None


def from_relay_json(text: str, params: Mapping[str, np.ndarray] | None = None) -> tvm.IRModule:
    """Import a Relay program in the JSON format of `tvm.ir.save_json`; see `from_relay`."""
    try:
        return convert_program(parse_json_program(text), params or {})
    except RecursionError:
        raise RelayError("the program is nested too deeply") from None


def load_relay(path: str | Path, params_path: str | Path | None = None) -> tvm.IRModule:
    """Import a Relay file, text or JSON, with an optional file of parameters.

    Raises
    ------
    ModelError
        If a file cannot be read; otherwise as `from_relay`, with the file's name in front.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    params = load_params(params_path) if params_path is not None else {}
    read = from_relay_json if text.lstrip().startswith("{") else from_relay
    try:
        return read(text, params)
    except ModelError as error:
        error.args = (f"{path}: {error}", *error.args[1:])
        raise
