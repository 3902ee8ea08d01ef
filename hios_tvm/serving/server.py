"""KServe's model server, with artifacts as its models."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import grpc
import uvloop
from kserve import ModelServer
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.rest.server import RESTServer

from hios_tvm.errors import UsageError
from hios_tvm.serving.endpoints import ModelsDataPlane, refuse_by_errors, routes
from hios_tvm.serving.grpc_service import Service
from hios_tvm.serving.logs import configure_logging
from hios_tvm.serving.model_source import ModelSource
from hios_tvm.serving.models import Models, load_models
from hios_tvm.serving.options import ServerOptions
from hios_tvm.serving.rest import InferEndpoint
from hios_tvm.serving.slow_clients import limited_http

_LOG = logging.getLogger("hios_tvm.serving")
_CONNECTIONS = 1000  # over REST at once; more get 503


class _RestServer(RESTServer):
    """KServe's REST server on one socket, without the routes that change what is served."""

    def __init__(self, server: Server, options: ServerOptions, listener: socket.socket) -> None:
        super().__init__(
            "kserve.model_server:app",
            server.dataplane,
            server.model_repository_extension,
            http_port=0,
            grace_period=server.grace_period,
            event_loop="uvloop",
        )
        self.config.limit_concurrency = _CONNECTIONS
        self.config.ws = "none"  # it would have none of the limits
        self.config.http = limited_http(options.max_receive)
        self._models = server.models
        self._listener = listener
        self._server.capture_signals = nullcontext  # signals are heard for both servers together

    def _register_endpoints(self, app: Any) -> None:
        app.include_router(routes(self.dataplane, self._models))
        self.config.app = InferEndpoint(self._models, app)

    def _add_exception_handlers(self, app: Any) -> None:
        super()._add_exception_handlers(app)
        refuse_by_errors(app)

    def _add_middlewares(self, app: Any) -> None:
        """Add none: KServe's measures times, as `Model` does."""

    async def start(self) -> None:
        """Serve until `stop`."""
        self.create_application()
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """Take no more connections; `start` ends when all requests are answered."""
        self._server.should_exit = True


class _GrpcServer(GRPCServer):
    """KServe's gRPC server on one address."""

    def __init__(self, server: Server, options: ServerOptions) -> None:
        super().__init__(
            options.grpc_port, server.dataplane, None, {}, grace_period=server.grace_period
        )
        self._models = server.models
        self._options = options

    async def start(self, max_workers: int = 1) -> None:
        """Listen, and return."""
        longest = max(model.max_request_bytes for model in self._models)
        waiting = sum(model.queue + 1 for model in self._models)
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", longest), ("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=_CONNECTIONS + waiting,
        )
        service = Service(self._data_plane, self._models)
        self._server.add_generic_rpc_handlers((service.handler(),))
        address = f"{self._options.host}:{self._options.grpc_port}"
        try:
            self._port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            await self._server.stop(None)
            raise UsageError(f"cannot listen on {address} for gRPC: {error}") from None
        await self._server.start()

    @property
    def port(self) -> int:
        """The port that `start` listens on."""
        return int(self._port)


class Server(ModelServer):
    """Serves models over REST and gRPC until SIGTERM or SIGINT, then answers what it accepted."""

    def __init__(self, models: Models, options: ServerOptions) -> None:
        super().__init__(
            registered_models=models,
            enable_latency_logging=False,
            grace_period=options.grace,
        )
        self.models = models
        self.dataplane = ModelsDataPlane(models)
        self._options = options

    def run(self) -> None:
        """Serve until a signal."""
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        with _listener(self._options.host, self._options.http_port) as listener:
            rest_server = _RestServer(self, self._options, listener)
            grpc_server = _GrpcServer(self, self._options)
            await grpc_server.start()
            rest = asyncio.create_task(rest_server.start())
            stop = self._heard_signal()
            ports = {"http_port": listener.getsockname()[1], "grpc_port": grpc_server.port}
            _LOG.info(
                "serving on %s: REST on port %d, gRPC on port %d",
                self._options.host,
                *ports.values(),
                extra={"data": ports},
            )
            await asyncio.wait((rest, stop), return_when=asyncio.FIRST_COMPLETED)
            _LOG.info("stopping: requests that were accepted are answered")
            self.dataplane.is_stopping = True
            rest_server.stop()
            await asyncio.gather(rest, grpc_server.stop(), return_exceptions=True)
            for model in self.models:
                await asyncio.to_thread(model.stop)
            rest.result()  # raises where it could not serve
            _LOG.info("stopped")

    def _heard_signal(self) -> asyncio.Future[None]:
        """Return what ends at the first SIGTERM or SIGINT; a second one ends the process."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()

        def hear() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            heard.set_result(None)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, hear)
        return heard


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error}") from None


def serve(
    artifacts: Sequence[str],
    devices: Sequence[str],
    options: ServerOptions,
    verify_key: Path | None = None,
) -> None:
    """Serve artifacts until SIGTERM or SIGINT.

    Parameters
    ----------
    artifacts
        ``FILE``, ``NAME=FILE`` or ``NAME/VERSION=FILE``.
    devices
        Where each is to run, or nothing: then each gets cores that no other session uses.
    options : ServerOptions
    verify_key : Path, optional
        Public key of whoever must have signed all artifacts.
    """
    configure_logging(options.log_format, options.log_level)
    models = load_models(
        [ModelSource.parse(text) for text in artifacts], devices, options, verify_key
    )
    try:
        Server(models, options).run()
    finally:  # where it cannot serve, too
        for model in models:
            model.stop()
