"""Static quantization of an ONNX model by ONNX Runtime's tools, and how accurate the result is."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from hios_tvm.errors import HiosError, ModelError, UsageError
from hios_tvm.files import atomic_write, check_writable, temporary_folder
from hios_tvm.frontends.onnx.files import load_external_data, read_model
from hios_tvm.frontends.onnx.inputs import input_tensors
from hios_tvm.quantizing.accuracy import AccuracyMeter, OutputAccuracy
from hios_tvm.quantizing.calibration import CalibrationSet, Feeds, read_calibration
from hios_tvm.verification.onnx_reference import LARGEST_CONTENT, OnnxReference

if TYPE_CHECKING:
    import onnx

Method: TypeAlias = Literal["minmax", "percentile"]
"""How ranges follow from values: all of them, or all but a hundred-thousandth."""

Progress: TypeAlias = Callable[[str, int, int], None]

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OLDEST_OPSET = 13  # scales of channels


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How a model is quantized.

    Attributes
    ----------
    shapes : mapping of input name to shape
        Of one run of calibration, where dimensions of the model are symbolic; they stay so.
    method : {"minmax", "percentile"}
    per_channel : bool
        Whether each output channel of a weight has a scale of its own.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    method: Method = "minmax"
    per_channel: bool = True


@dataclass(frozen=True)
class Quantization:
    """What came of it.

    Attributes
    ----------
    products : int
        Convolutions and products of matrices in the model; `quantized` of them have two quantized
        factors.
    bytes_before, bytes_after : int
        Sizes of the models.
    calibrated, held_out : int
        Runs to calibrate with, and those that `outputs` is about.
    reference : str
        What ran both models.
    outputs : tuple of OutputAccuracy
    """

    products: int
    quantized: int
    bytes_before: int
    bytes_after: int
    calibrated: int
    held_out: int
    reference: str
    outputs: tuple[OutputAccuracy, ...]


def quantize(
    model: Path,
    calibration: Path,
    output: Path,
    options: QuantizeOptions = QuantizeOptions(),
    progress: Progress = lambda phase, done, total: None,
) -> Quantization:
    """Write `model` with activations and weights of 8 bits, in QDQ form.

    Activations become uint8, with ranges of the runs in the folder `calibration`, and weights int8.
    A fifth of the runs are held out: on them, the result is compared with `model`.

    Raises
    ------
    UsageError
        If an option, a path or a file of inputs cannot be used, or ONNX Runtime is not installed.
    InputError
        If inputs do not fit the model.
    ModelError
        If the model cannot be read, is quantized already, or cannot be quantized.
    """
    check_writable(output)
    if output.exists() and output.samefile(model):
        raise UsageError(f"{output} is the model itself: give another --output")
    exact = OnnxReference(model)
    reference = exact.runner
    proto = read_model(model)
    _check_is_real(proto, model)
    inputs = input_tensors(proto.graph, options.shapes, str(model))
    chosen, held_out = read_calibration(calibration, inputs, progress).split()
    load_external_data(proto, model)
    with temporary_folder() as folder:
        found = _quantized(proto, model, chosen, folder, options, progress)
        products = _products(found.graph)
        if not any(products):
            raise ModelError(f"{model}: no convolution or product in it could be quantized")
        content = _content(found, output)
        outputs = _accuracy(exact, OnnxReference(found), held_out, progress)
        with atomic_write(output) as file:
            file.write(content)
    return Quantization(
        products=len(products),
        quantized=sum(products),
        bytes_before=proto.ByteSize(),
        bytes_after=len(content),
        calibrated=len(chosen),
        held_out=len(held_out),
        reference=reference,
        outputs=outputs,
    )


def _check_is_real(proto: onnx.ModelProto, model: Path) -> None:
    """Refuse a model with quantized tensors."""
    for node in proto.graph.node:
        kind = node.op_type
        if kind.startswith("QLinear") or "Quantize" in kind or kind.endswith("Integer"):
            raise ModelError(
                f"{model} is quantized already: it has {kind}; give the model in single precision"
            )


def _quantized(
    proto: onnx.ModelProto,
    model: Path,
    runs: CalibrationSet,
    folder: Path,
    options: QuantizeOptions,
    progress: Progress,
) -> onnx.ModelProto:
    import onnx

    source, prepared, result = (folder / f"{name}.onnx" for name in ("source", "prepared", "int8"))
    progress("prepare", 0, 1)
    with _quiet(f"{model}: ONNX Runtime cannot quantize it"):
        from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        _save(_at_least(proto, _OLDEST_OPSET), source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True, save_as_external_data=True)
        progress("prepare", 1, 1)
        methods = {
            "minmax": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
        }
        quantize_static(
            prepared,
            result,
            _Reader(runs, progress),
            per_channel=options.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            calibrate_method=methods[options.method],
            # Runs are looked at one after another, so that no more than one is in memory
            extra_options={"CalibStridedMinMax": 1, "CalibTensorRangeSymmetric": False},
        )
        return onnx.load(result)


def _at_least(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    from onnx.version_converter import convert_version

    opset = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
    return convert_version(proto, version) if opset < version else proto


def _save(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model of any size; `proto` stays as it is."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)  # weights are moved out of what is saved
    onnx.save(copy, path, save_as_external_data=True, location=f"{path.name}.data")


class _Reader:
    """What ONNX Runtime asks for one run after another: has the methods of its data readers."""

    def __init__(self, runs: CalibrationSet, progress: Progress) -> None:
        self._runs, self._progress = runs, progress
        self._feeds, self._done, self._end = iter(runs), 0, 0

    def __len__(self) -> int:
        return len(self._runs)

    def set_range(self, start_index: int, end_index: int) -> None:
        assert start_index == self._done, "runs are asked for in order"
        self._end = end_index

    def get_next(self) -> Feeds | None:
        self._progress("calibrate", self._done, len(self._runs))
        if self._done == self._end:
            return None
        self._done += 1
        return next(self._feeds)


@contextlib.contextmanager
def _quiet(failure: str) -> Iterator[None]:
    """Keep what ONNX Runtime's tools print to themselves, and turn what they raise into one line.

    They raise errors of any kind.
    """
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (HiosError, MemoryError, OSError):  # such as a full disk: these say what they are
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{failure}: {reason}") from error
    finally:
        logging.disable(level)


def _products(graph: onnx.GraphProto) -> list[bool]:
    """Return for each convolution and product whether both of its factors are quantized."""
    real = {
        name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
    }
    return [real.issuperset(node.input[:2]) for node in graph.node if node.op_type in _PRODUCTS]


def _content(proto: onnx.ModelProto, output: Path) -> bytes:
    size = proto.ByteSize()
    if size > LARGEST_CONTENT:
        raise ModelError(
            f"cannot write {output}: in 8 bits it still takes {size / 1e9:.1f} GB, and an ONNX "
            "file holds 2 GB; quantize parts of the model"
        )
    return bytes(proto.SerializeToString())


def _accuracy(
    exact: OnnxReference, quantized: OnnxReference, runs: CalibrationSet, progress: Progress
) -> tuple[OutputAccuracy, ...]:
    meter = AccuracyMeter()
    for i, feeds in enumerate(runs):
        progress("compare", i, len(runs))
        meter.add(exact.run(feeds), quantized.run(feeds))
    progress("compare", len(runs), len(runs))
    return meter.outputs()
