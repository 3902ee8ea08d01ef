"""Requests that are not run, and what clients are told of those that fail."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from hios_tvm.errors import HiosError, InputError

_LOG = logging.getLogger("hios_tvm.serving")
_MESSAGE_LENGTH = 1000  # gRPC carries no more than some kilobytes


class RefusedError(HiosError):
    """A request that is not run; `status` is the answer over HTTP, `code` the one over gRPC."""

    status: ClassVar[int]
    code: ClassVar[str]


class NotFoundError(RefusedError):
    """No such model or version is served."""

    status, code = 404, "NOT_FOUND"


class TooLargeError(RefusedError):
    """The body is larger than the limit."""

    status, code = 413, "RESOURCE_EXHAUSTED"


class EncodingError(RefusedError):
    """The body is compressed."""

    status, code = 415, "INVALID_ARGUMENT"


class QueueFullError(RefusedError):
    """As many requests wait for the model as may."""

    status, code = 503, "RESOURCE_EXHAUSTED"


class UnavailableError(RefusedError):
    """The server is being shut down, or no replica of the model answers."""

    status, code = 503, "UNAVAILABLE"


@dataclass(frozen=True)
class Answer:
    """What a client is told of a request that has no result."""

    status: int
    code: str
    message: str


def answer_to(error: Exception) -> Answer:
    """Return what the client is told of `error`; what is not its fault is logged."""
    status, code, message = 500, "INTERNAL", str(error)
    if isinstance(error, RefusedError):
        status, code = error.status, error.code
    elif isinstance(error, InputError):
        status, code = 400, "INVALID_ARGUMENT"
    else:
        _LOG.error("a request failed", exc_info=error)
        message = message if isinstance(error, HiosError) else "internal error"
    if len(message) > _MESSAGE_LENGTH:
        message = f"{message[:_MESSAGE_LENGTH]}..."
    return Answer(status, code, message)
