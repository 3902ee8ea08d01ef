"""From a model to an artifact in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hios_tvm.backends.interface import PhaseProgress
from hios_tvm.compiler.compilation import Compilation
from hios_tvm.compiler.options import CompileOptions, devices_of_placement
from hios_tvm.compiler.pipeline import compile_model
from hios_tvm.compiler.shapes import compile_shapes
from hios_tvm.compiler.source import NO_CONFIGURATION, ModelSource
from hios_tvm.errors import UsageError
from hios_tvm.files import check_writable
from hios_tvm.frontends.shapes import Size, one_shape, several_shapes
from hios_tvm.runtime.devices.cpu.cores import default_devices
from hios_tvm.schema.device_names import parse_device_list

if TYPE_CHECKING:
    import onnx
    from tvm.ir import IRModule


def compile(
    model: str | os.PathLike[str] | onnx.ModelProto | IRModule,
    output: str | os.PathLike[str] | None = None,
    *,
    devices: str | Sequence[str] | None = None,
    shapes: Mapping[str, Sequence[Size]] | None = None,
    programs: Sequence[int] = (),
    params: str | os.PathLike[str] | None = None,
    configuration: str | None = None,
    verify: bool = True,
    progress: PhaseProgress = lambda phase, done, total: None,
    **options: Any,
) -> Compilation:
    """Compile a model file with defaults for everything else.

    Parameters
    ----------
    model
        An ONNX file or a Relay program; or a model in memory, which takes `output`.
    output : optional
        The artifact to write; by default it is the model's file with the suffix ``.hios``.
    devices : optional
        Such as ``"cpu@0,cpu@1"`` or ``["cpu@0", "cpu@1"]``; by default those of the model's
        placement, or all cores as one device.
    shapes : mapping of input name to shape, optional
        Where dimensions of ONNX inputs are symbolic. The artifact has several shapes where a
        dimension is a range of sizes of a batch, such as ``range(1, 9)``, or a list of sizes
        (`several_shapes`).
    programs : optional
        Sizes of such a range that get a program.
    params : optional
        Parameters of a Relay program.
    configuration : optional
        Which of an ONNX model's configurations of devices places its operators, by default the
        only one; ``"none"`` for a schedule of this project. A given `schedule` does without it.
    verify : bool
        Compare the artifact with a reference before it is written.
    options
        More fields of `CompileOptions`, such as ``scheduler="auto"``.

    Raises
    ------
    HiosError
        As `load_model` and `compile_model` do.

    Examples
    --------
    >>> compiled = hios_tvm.compile("model.onnx")  # doctest: +SKIP
    >>> outputs = compiled.load().run(images)  # doctest: +SKIP
    """
    source = ModelSource(model, {}, params)
    if output is None and source.file is None:
        raise UsageError("a model in memory has no file to write beside: give output too")
    path = Path(output) if output is not None else cast(Path, source.file).with_suffix(".hios")
    names = parse_device_list(devices) if isinstance(devices, str) else devices
    if options.get("schedule") is None and configuration != NO_CONFIGURATION:
        options["placement"] = source.placement(configuration)
    if names is None:
        placement = options.get("placement")
        names = devices_of_placement(placement) if placement else default_devices()
    chosen = CompileOptions(devices=tuple(names), **options)
    check_writable(path)
    name = (source.file or path).stem
    several = several_shapes(shapes or {}, programs)
    if len(several.shapes) > 1 or several.batch:
        return compile_shapes(
            source, several, path, chosen, name=name, compared=verify, progress=progress
        )
    source = replace(source, shapes=one_shape(shapes or {}))
    module = source.module()
    return compile_model(
        module,
        path,
        chosen,
        name=name,
        reference=source.reference(module) if verify else None,
        progress=progress,
    )
