"""A replica of a fleet: the versions of one model, and the protocol, in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NoReturn

import grpc
from fastapi import FastAPI

from hios_tvm.serving.artifact_store import fetch_same
from hios_tvm.serving.endpoints import ModelsDataPlane, refuse_by_errors, routes
from hios_tvm.serving.fleet_options import FleetOptions
from hios_tvm.serving.grpc_service import Service
from hios_tvm.serving.model_source import ModelSource
from hios_tvm.serving.models import load_models
from hios_tvm.serving.refusals import Answer
from hios_tvm.serving.rest import InferEndpoint

Headers = list[tuple[bytes, bytes]]


class Replica:
    """Answers requests for one model as `hios-tvm serve` does; Ray Serve's class of a deployment.

    Parameters
    ----------
    sources
        The versions of the model.
    identities
        Of their artifacts when they were deployed, by version: all replicas run the same code.
    options : FleetOptions

    Raises
    ------
    ArtifactError
        If an artifact cannot be read, is damaged or has changed.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        identities: Mapping[str, str],
        options: FleetOptions,
    ) -> None:
        log_as_ray_serve()
        fetched = [
            replace(source, location=str(fetch_same(source.location, identities[source.version])))
            for source in sources
        ]
        gpus = count()  # Ray shows a replica no others than its own
        self._models = load_models(fetched, (), options.limits, options.verify_key, gpus)
        data_plane = ModelsDataPlane(self._models)
        others = FastAPI()
        others.include_router(routes(data_plane, self._models))
        refuse_by_errors(others)
        self._rest = InferEndpoint(self._models, others)
        self._grpc = Service(data_plane, self._models)

    async def rest(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[int, Headers, bytes]:
        """Return status, headers and body of the answer to a request."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": headers,
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._rest(scope, receive, send)
        start, *parts = sent
        return start["status"], start["headers"], b"".join(part.get("body", b"") for part in parts)

    async def grpc(self, method: str, request: bytes) -> bytes | Answer:
        """Return the message that `method` of the service answers, or what it refuses with."""
        try:
            return await self._grpc.answer(method, request, _Context())
        except _AbortedError as error:
            return error.answer

    async def check_health(self) -> None:
        """Raise where a model takes no more requests: Ray then replaces this replica."""
        for model in self._models:
            if not await model.healthy():
                raise RuntimeError(f"{model.name} version {model.version} does not run any more")

    def __del__(self) -> None:
        """Close the sessions; Ray calls this when all requests are answered."""
        for model in getattr(self, "_models", ()):
            model.stop()


class _AbortedError(Exception):
    """A request that the service refused."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class _Context:
    """What the service needs of a context of gRPC."""

    async def abort(self, code: grpc.StatusCode, message: str) -> NoReturn:
        """End the request with an error."""
        raise _AbortedError(Answer(0, code.name, message))


def log_as_ray_serve() -> None:
    """Let the lines of this package appear where those of Ray Serve do."""
    ours, theirs = logging.getLogger("hios_tvm"), logging.getLogger("ray.serve")
    ours.handlers, ours.propagate = theirs.handlers, False
    ours.setLevel(theirs.level)
