"""The front door of a fleet: finds the model of a request, and asks again where a replica is lost.

It knows paths and names, and nothing else of the protocol: `fleet_replica` reads requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from ray import exceptions, serve
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from ray.serve.schema import DeploymentStatus, ReplicaState
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hios_tvm.errors import HiosError, InputError
from hios_tvm.serving.endpoints import refuse
from hios_tvm.serving.fleet_replica import log_as_ray_serve
from hios_tvm.serving.refusals import (
    Answer,
    NotFoundError,
    QueueFullError,
    TooLargeError,
    UnavailableError,
    answer_to,
)
from hios_tvm.serving.rest import ClientGoneError, read_body

_ATTEMPTS = 4
"""For a request whose replicas are lost: one that ends processes must not end all of them."""

_LOST = (
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.RayActorError,
    exceptions.RpcError,
    exceptions.WorkerCrashedError,
    ReplicaUnavailableError,
)
_LOG = logging.getLogger("hios_tvm.serving")


@dataclass(frozen=True)
class _Message:
    """A message of gRPC, as Ray asks for it."""

    content: bytes

    def SerializeToString(self) -> bytes:
        """Return the bytes."""
        return self.content


class Front:
    """Ray Serve's ingress, for REST and gRPC.

    Parameters
    ----------
    models
        The deployment of each model.
    max_request_bytes
        Larger requests are refused.
    """

    def __init__(self, models: Mapping[str, DeploymentHandle], max_request_bytes: int) -> None:
        log_as_ray_serve()
        self._models = models
        self._max_bytes = max_request_bytes
        self._known_ready: dict[str, bool] = {}  # Ray says nothing while it builds a new version

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the application for REST."""
        forward = ["GET", "POST"]
        return Starlette(
            routes=[
                Route("/v2", self._metadata),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                Route("/v2/models", self._list),
                Route("/v2/models/{name}", self._forward, methods=forward),
                Route("/v2/models/{name}/{rest:path}", self._forward, methods=forward),
            ],
            exception_handlers={HiosError: refuse, Exception: refuse},
        )

    async def _live(self, _request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _ready(self, _request: Request) -> Response:
        ready = await self._is_ready(*self._models)
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def _list(self, _request: Request) -> Response:
        return JSONResponse({"models": list(self._models)})

    async def _metadata(self, request: Request) -> Response:
        return await self._answer(next(iter(self._models)), request, b"")

    async def _forward(self, request: Request) -> Response:
        name = request.path_params["name"]
        if request.url.path.endswith("/ready") and not await self._is_ready(name):
            return JSONResponse({"name": name, "ready": False}, status_code=503)
        headers = dict(request.scope["headers"])
        try:
            body = await read_body(request.receive, headers, 0, self._max_bytes)
        except ClientGoneError:
            return Response(status_code=499)  # nobody reads it
        return await self._answer(name, request, body.tobytes())

    async def _answer(self, name: str, request: Request, body: bytes) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        headers = request.scope["headers"]
        call = partial(self._find(name).rest.remote, request.method, path, headers, body)
        status, headers, content = await _call(name, call)
        response = Response(content, status)
        response.raw_headers = headers
        return response

    async def ModelInfer(self, request: bytes, grpc_context: Any) -> Any:
        """Answer one request over gRPC."""
        return await self._answer_grpc("ModelInfer", request, grpc_context)

    async def ModelMetadata(self, request: bytes, grpc_context: Any) -> Any:
        """Say what inputs and outputs a model has."""
        return await self._answer_grpc("ModelMetadata", request, grpc_context)

    async def ModelReady(self, request: bytes, grpc_context: Any) -> Any:
        """Say whether a model takes requests."""
        return await self._answer_grpc("ModelReady", request, grpc_context)

    async def RepositoryModelLoad(self, request: bytes, grpc_context: Any) -> Any:
        """Refuse, as every server does."""
        return await self._answer_grpc("RepositoryModelLoad", request, grpc_context)

    async def RepositoryModelUnload(self, request: bytes, grpc_context: Any) -> Any:
        """Refuse, as every server does."""
        return await self._answer_grpc("RepositoryModelUnload", request, grpc_context)

    async def ServerMetadata(self, request: bytes, grpc_context: Any) -> Any:
        """Say what this server is."""
        return await self._answer_grpc("ServerMetadata", request, grpc_context)

    async def ServerLive(self, _request: bytes) -> Any:
        """Say that this server answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: bytes) -> Any:
        """Say whether all models take requests."""
        return pb.ServerReadyResponse(ready=await self._is_ready(*self._models))

    async def _answer_grpc(self, method: str, request: bytes, context: Any) -> Any:
        """Return the answer of a replica, or an empty one beside the status of an error."""
        try:
            if len(request) > self._max_bytes:
                raise TooLargeError(f"the message has more than {self._max_bytes} bytes")
            name = self._model_of(method, request)
            if method == "ModelReady" and name in self._models and not await self._is_ready(name):
                return pb.ModelReadyResponse(ready=False)
            answer = await _call(name, partial(self._find(name).grpc.remote, method, request))
        except Exception as error:
            answer = answer_to(error)
        if isinstance(answer, Answer):
            context.set_code(grpc.StatusCode[answer.code])
            context.set_details(answer.message)
            return _Message(b"")
        return _Message(answer)

    def _model_of(self, method: str, request: bytes) -> str:
        """Return the model that a message names; any, where it is for the server."""
        try:
            message = getattr(pb, f"{method}Request").FromString(request)
        except DecodeError as error:
            raise InputError(f"the message is no {method}Request: {error}") from error
        for field in ("model_name", "name"):
            if field in message.DESCRIPTOR.fields_by_name:
                return str(getattr(message, field))
        return next(iter(self._models))

    def _find(self, name: str) -> DeploymentHandle:
        if name not in self._models:
            raise NotFoundError(f"there is no model {name!r}")
        return self._models[name]

    async def _is_ready(self, *names: str) -> bool:
        """Whether replicas of these models run, as far as any are wanted."""
        own = serve.get_replica_context().app_name
        status = await asyncio.to_thread(serve.status)
        for name, deployment in status.applications[own].deployments.items():
            self._known_ready[name] = (
                deployment.status == DeploymentStatus.HEALTHY
                or deployment.replica_states.get(ReplicaState.RUNNING, 0) > 0
            )
        return all(self._known_ready.get(name, False) for name in names)


async def _call(model: str, call: Callable[[], DeploymentResponse[Any]]) -> Any:
    """Return what a replica answers, of one after the other where they are lost.

    A request leaves nothing behind in a replica, so that it may be asked twice.

    Raises
    ------
    RefusedError
        If there is none that takes the request.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await call()
        except BackPressureError as error:
            raise QueueFullError(
                f"too many requests wait for {model!r}: try again later"
            ) from error
        except DeploymentUnavailableError as error:
            raise UnavailableError(f"{model!r} could not be deployed") from error
        except _LOST as error:
            problem = type(error).__name__
            _LOG.warning("%s: a replica was lost (%s); the request goes to another", model, problem)
    raise UnavailableError(
        f"{_ATTEMPTS} replicas of {model!r} were lost while they had the request"
    )
