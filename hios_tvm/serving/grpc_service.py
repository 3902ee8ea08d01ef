"""Inference over gRPC, with the messages and the service of KServe."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.servicer import InferenceServicer

from hios_tvm.errors import InputError
from hios_tvm.runtime.arguments import Array
from hios_tvm.serving.fleet_grpc import METHODS, SERVICE
from hios_tvm.serving.models import Model, Models
from hios_tvm.serving.refusals import answer_to
from hios_tvm.serving.tensors import (
    MAX_TENSORS,
    array_of_bytes,
    array_of_numbers,
    check_wanted,
    datatype_of,
)

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Where a message has numbers that are not bytes, by type."""


class Service(InferenceServicer):
    """KServe's service, with versions of models, and without a way to load or unload any."""

    def __init__(self, data_plane: Any, models: Models) -> None:
        super().__init__(data_plane, None)
        self._models = models

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server answers requests with."""
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(partial(self.answer, method))
            for method in METHODS
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def answer(self, method: str, request: bytes, context: Any) -> bytes:
        """Return the answer to a message of `method`, both as bytes."""
        try:
            message = getattr(pb, f"{method}Request").FromString(request)
        except DecodeError:
            await _abort(context, InputError(f"the message is no {method}Request"))
        answer = await getattr(self, method)(message, context)
        return bytes(answer.SerializeToString())

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer one request."""
        try:
            model = self._models.find(request.model_name, request.model_version)
            outputs = await model.infer(decode(request), "grpc")
            return encode(model, request, outputs)
        except Exception as error:
            await _abort(context, error)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Say whether a model takes requests."""
        try:
            model = self._models.find(request.name, request.version)
            return pb.ModelReadyResponse(ready=await model.healthy())
        except Exception as error:
            await _abort(context, error)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Say what inputs and outputs a model has."""
        try:
            metadata = self._models.metadata(request.name, request.version)
            return pb.ModelMetadataResponse(**metadata)
        except Exception as error:
            await _abort(context, error)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Refuse: what is served is given when the server starts."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "models cannot be loaded by requests")

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Refuse: what is served is given when the server starts."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "models cannot be unloaded by requests")


async def _abort(context: Any, error: Exception) -> NoReturn:
    answer = answer_to(error)
    await context.abort(grpc.StatusCode[answer.code], answer.message)
    raise AssertionError("abort raises")


def decode(request: Any) -> dict[str, Array]:
    """Return the inputs of a request.

    Raises
    ------
    InputError
        If they are not as the protocol says.
    """
    raw = request.raw_input_contents
    if len(request.inputs) > MAX_TENSORS:
        raise InputError(f"{len(request.inputs)} inputs, more than {MAX_TENSORS}")
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"{len(request.inputs)} inputs, but {len(raw)} raw_input_contents")
    inputs: dict[str, Array] = {}
    for i, item in enumerate(request.inputs):
        if item.name in inputs:
            raise InputError(f"input {item.name!r} is given twice")
        if raw:
            array = array_of_bytes(item.name, item.datatype, item.shape, raw[i])
        elif item.datatype in _CONTENTS:
            numbers = getattr(item.contents, _CONTENTS[item.datatype])
            array = array_of_numbers(item.name, item.datatype, item.shape, list(numbers))
        else:
            raise InputError(f"input {item.name!r}: {item.datatype} needs raw_input_contents")
        inputs[item.name] = array
    return inputs


def encode(model: Model, request: Any, outputs: Mapping[str, Array]) -> Any:
    """Return the answer with the outputs that `request` asks for, all where it names none.

    Raises
    ------
    InputError
        If there is no such output, or it is asked for twice.
    """
    names = [item.name for item in request.outputs] or list(outputs)
    check_wanted(names, outputs)
    return pb.ModelInferResponse(
        id=request.id,
        model_name=model.name,
        model_version=model.version,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=name, datatype=datatype_of(outputs[name]), shape=outputs[name].shape
            )
            for name in names
        ],
        raw_output_contents=[outputs[name].tobytes() for name in names],
    )
