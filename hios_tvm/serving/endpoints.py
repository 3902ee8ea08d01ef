"""What a server says of itself and its models over REST: everything but inference."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v2_endpoints import V2Endpoints

from hios_tvm.serving.models import Models
from hios_tvm.serving.refusals import RefusedError, answer_to


class ModelsDataPlane(DataPlane):
    """What the server says of itself; it is not ready while it shuts down."""

    def __init__(self, models: Models) -> None:
        super().__init__(models)
        self._models = models
        self.is_stopping = False

    def metadata(self) -> dict[str, Any]:
        """Return the server's name, version and extensions."""
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}

    async def ready(self) -> bool:
        """Whether every model takes requests."""
        return not self.is_stopping and all([await model.healthy() for model in self._models])


class _Endpoints(V2Endpoints):
    """KServe's endpoints, with versions."""

    def __init__(self, data_plane: DataPlane, models: Models) -> None:
        super().__init__(data_plane)
        self._models = models

    async def model_metadata(self, model_name: str, model_version: str | None = None) -> Any:
        """Return what inputs and outputs a model has."""
        return self._models.metadata(model_name, model_version)

    async def model_ready(self, model_name: str, model_version: str | None = None) -> Any:
        """Say whether a model takes requests."""
        ready = await self._models.find(model_name, model_version).healthy()
        content = {"name": model_name, "ready": ready}
        return JSONResponse(content, status_code=200 if ready else 503)


def routes(data_plane: ModelsDataPlane, models: Models) -> APIRouter:
    """Return KServe's endpoints, without those that change what is served."""
    endpoints = _Endpoints(data_plane, models)
    model = "/models/{model_name}"
    router = APIRouter()
    for path, handler in {
        "/": data_plane.live,
        "/metrics": metrics_handler,
        "/v2": endpoints.metadata,
        "/v2/health/live": endpoints.live,
        "/v2/health/ready": endpoints.ready,
        "/v2/models": endpoints.models,
        f"/v2{model}": endpoints.model_metadata,
        f"/v2{model}/versions/{{model_version}}": endpoints.model_metadata,
        f"/v2{model}/ready": endpoints.model_ready,
        f"/v2{model}/versions/{{model_version}}/ready": endpoints.model_ready,
    }.items():
        router.add_api_route(
            path, handler, methods=["GET"], response_model=None, response_class=JSONResponse
        )
    return router


def refuse_by_errors(app: FastAPI) -> None:
    """Answer errors as `answer_to` says."""
    app.add_exception_handler(RefusedError, refuse)
    app.add_exception_handler(Exception, refuse)


async def refuse(_request: Any, error: Exception) -> JSONResponse:
    """Return what the client is told of `error`."""
    answer = answer_to(error)
    headers = {"retry-after": "1"} if answer.status == 503 else None
    return JSONResponse({"error": answer.message}, answer.status, headers)
