"""The gRPC service, as the proxies of Ray Serve take it; they need no more of KServe than this."""

from __future__ import annotations

from typing import Any

import grpc

SERVICE = "inference.GRPCInferenceService"
METHODS = (
    *("ServerLive", "ServerReady", "ServerMetadata"),
    *("ModelInfer", "ModelMetadata", "ModelReady"),
    *("RepositoryModelLoad", "RepositoryModelUnload"),
)


def add_service(servicer: Any, server: Any) -> None:
    """Let a proxy accept the methods of the protocol; ``grpc_servicer_functions`` names this.

    Messages pass through proxies as bytes: `pickle` does not find the classes of KServe's.
    """
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(getattr(servicer, method)) for method in METHODS
    }
    handler = grpc.method_handlers_generic_handler(SERVICE, handlers)
    server.add_generic_rpc_handlers((handler,))
