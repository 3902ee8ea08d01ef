"""Inference over REST: bodies of JSON, or of JSON and the bytes of tensors behind it.

KServe's own decoder takes 90 ms of processor time for a tensor of 600 KB, and answers 500 to some
bodies that are not well-formed. Here the bytes of a body arrive where the kernels read them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, FailFast, Field, ValidationError

from hios_tvm.errors import HiosError, InputError
from hios_tvm.runtime import aligned_empty
from hios_tvm.runtime.arguments import Array
from hios_tvm.schema.dtypes import MAX_RANK
from hios_tvm.schema.manifest import ALIGNMENT, TensorSpec
from hios_tvm.serving.models import Models
from hios_tvm.serving.refusals import EncodingError, TooLargeError, answer_to
from hios_tvm.serving.tensors import (
    MAX_TENSORS,
    array_of_bytes,
    array_of_numbers,
    check_wanted,
    datatype_of,
)

JSON_LENGTH = b"inference-header-content-length"
_DISCARD_S = 5.0  # how long a body that is not wanted is read

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Parameters(BaseModel):
    binary_data_size: int | None = Field(None, ge=0)
    binary_data: bool | None = None
    binary_data_output: bool | None = None


class _Input(BaseModel):
    name: str
    shape: list[int] = Field(max_length=MAX_RANK)
    datatype: str
    parameters: _Parameters = _Parameters()
    data: list[Any] | None = None


class _Output(BaseModel):
    name: str
    parameters: _Parameters = _Parameters()


class _Request(BaseModel):
    id: str = ""
    inputs: Annotated[list[_Input], FailFast()] = Field(max_length=MAX_TENSORS)
    outputs: Annotated[list[_Output], FailFast()] = Field([], max_length=MAX_TENSORS)
    parameters: _Parameters = _Parameters()


@dataclass(frozen=True)
class InferRequest:
    """A request; `wanted` has the outputs to return, and whether as bytes."""

    id: str
    inputs: Mapping[str, Array]
    wanted: Mapping[str, bool]


class ClientGoneError(Exception):
    """The client has closed the connection before its request was whole."""


_PATH = re.compile(r"/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer")


class InferEndpoint:
    """The ASGI application of ``/v2/models/{model}/infer``, with and without a version.

    Everything else is for `others`. It stands before them, and is no route of theirs, because
    FastAPI looks at each part of a body.
    """

    def __init__(self, models: Models, others: Application) -> None:
        self._models = models
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        path = _PATH.fullmatch(scope["path"]) if is_post else None
        if path is None:
            await self._others(scope, receive, send)
            return
        try:
            head, body = await self._answer(path["name"], path["version"], scope, receive)
        except ClientGoneError:
            return
        except Exception as error:
            answer = answer_to(error)
            head = {"status": answer.status, "headers": [(b"content-type", b"application/json")]}
            if answer.status == 503:
                head["headers"].append((b"retry-after", b"1"))
            body = json.dumps({"error": answer.message}).encode()
        head["headers"].append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, name: str, version: str | None, scope: Scope, receive: Receive
    ) -> tuple[dict[str, Any], bytes]:
        headers = dict(scope["headers"])
        try:
            model = self._models.find(name, version)
            if headers.get(b"content-encoding", b"identity") != b"identity":
                raise EncodingError("compressed bodies are not read: leave content-encoding out")
            json_bytes = _length(headers, JSON_LENGTH)
            body = await read_body(receive, headers, json_bytes or 0, model.max_request_bytes)
        except HiosError:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_discard(receive), _DISCARD_S)
            raise
        request = decode(body, json_bytes, model.outputs)
        outputs = await model.infer(request.inputs, "http")
        content, json_length = encode(model.name, model.version, request, outputs)
        kind = b"application/json" if json_length is None else b"application/octet-stream"
        found = [(b"content-type", kind)]
        if json_length is not None:
            found.append((JSON_LENGTH, str(json_length).encode()))
        return {"status": 200, "headers": found}, content


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], json_bytes: int, max_bytes: int
) -> Array:
    """Return the bytes of a body, such that what follows its JSON part is aligned for kernels.

    Raises
    ------
    TooLargeError
        If there are more than `max_bytes`.
    """
    length = _length(headers, b"content-length")
    if length is not None and length > max_bytes:
        raise TooLargeError(f"the body has {length} bytes, more than {max_bytes}")
    if length is None:
        return await _read_chunks(receive, max_bytes)
    start = -json_bytes % ALIGNMENT
    body = aligned_empty((start + length,), "uint8")[start:]
    end = 0
    async for chunk in _chunks(receive):
        body[end : end + len(chunk)] = np.frombuffer(chunk, np.uint8)
        end += len(chunk)
    return body


async def _read_chunks(receive: Receive, max_bytes: int) -> Array:
    """Return a body whose length is not known."""
    found = bytearray()
    async for chunk in _chunks(receive):
        found += chunk
        if len(found) > max_bytes:
            raise TooLargeError(f"the body has more than {max_bytes} bytes")
    return np.frombuffer(found, np.uint8)


async def _discard(receive: Receive) -> None:
    """Read on: most clients look for an answer only after they have sent all."""
    async for _ in _chunks(receive):
        pass


async def _chunks(receive: Receive) -> Any:
    """Yield the parts of a body that are not empty."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        if message.get("body"):
            yield message["body"]
        more = message.get("more_body", False)


def _length(headers: Mapping[bytes, bytes], name: bytes) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InputError(f"the header {name.decode()} is no number of bytes")
    return int(text)


def decode(body: Array, json_bytes: int | None, outputs: Sequence[TensorSpec]) -> InferRequest:
    """Read a body; `json_bytes` is the length of its JSON part where bytes of tensors follow it.

    Raises
    ------
    InputError
        If it is not as the protocol says, or asks for other outputs than the model has.
    """
    if json_bytes is None:
        json_bytes = len(body)
    elif json_bytes > len(body):
        raise InputError(f"the body has {len(body)} bytes; its JSON part is to have {json_bytes}")
    try:
        request = _Request.model_validate_json(body[:json_bytes].tobytes())
    except ValidationError as error:
        raise InputError(_problems(error)) from None
    inputs: dict[str, Array] = {}
    at = json_bytes
    for item in request.inputs:
        if item.name in inputs:
            raise InputError(f"input {item.name!r} is given twice")
        size = item.parameters.binary_data_size
        if (size is None) == (item.data is None):
            raise InputError(f"input {item.name!r} needs either data or binary_data_size")
        if size is None:
            array = array_of_numbers(item.name, item.datatype, item.shape, item.data)
        else:
            array = array_of_bytes(item.name, item.datatype, item.shape, body[at : at + size])
            at += size
        inputs[item.name] = array
    if at != len(body):
        raise InputError(f"the body has {len(body)} bytes; its inputs end at byte {at}")
    return InferRequest(request.id, inputs, _wanted(request, outputs))


def _wanted(request: _Request, outputs: Sequence[TensorSpec]) -> dict[str, bool]:
    """Return the outputs to return, in order, and whether as bytes."""
    default = bool(request.parameters.binary_data_output)
    known = [spec.name for spec in outputs]
    if not request.outputs:
        return dict.fromkeys(known, default)
    check_wanted([item.name for item in request.outputs], known)
    given = {item.name: item.parameters.binary_data for item in request.outputs}
    return {name: default if binary is None else binary for name, binary in given.items()}


def _problems(error: ValidationError) -> str:
    """Return in one line what is wrong with a request."""
    found = [
        f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


def encode(
    model: str, version: str, request: InferRequest, outputs: Mapping[str, Array]
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON part where bytes follow it."""
    described, parts = [], []
    for name, binary in request.wanted.items():
        array = outputs[name]
        item: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array),
            "shape": array.shape,
        }
        if binary:
            item["parameters"] = {"binary_data_size": array.nbytes}
            parts.append(array.tobytes())
        else:
            item["data"] = _numbers(array)
        described.append(item)
    head = json.dumps(
        {"model_name": model, "model_version": version, "id": request.id, "outputs": described}
    ).encode()
    return b"".join([head, *parts]), len(head) if parts else None


def _numbers(array: Array) -> list[Any]:
    """Return all elements for JSON, which has no infinities and no NaN: they become null."""
    numbers: list[Any] = array.ravel().tolist()
    if array.dtype.kind in "biu" or np.isfinite(array).all():
        return numbers
    return [x if np.isfinite(x) else None for x in numbers]
