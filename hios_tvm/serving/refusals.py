"""Requests that are not run, and what clients are told of those that fail."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from hios_tvm.errors import HiosError, InputError

_LOG = logging.getLogger("hios_tvm.serving")


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
    if isinstance(error, RefusedError):
        return Answer(error.status, error.code, str(error))
    if isinstance(error, InputError):
        return Answer(400, "INVALID_ARGUMENT", str(error))
    _LOG.error("a request failed", exc_info=error)
    message = str(error) if isinstance(error, HiosError) else "internal error"
    return Answer(500, "INTERNAL", message)
