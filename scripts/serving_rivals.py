"""Servers to compare with: KIND GRPC_PORT HTTP_PORT.

*bare* receives and answers the same bytes and looks at nothing; *kserve* is KServe's server with a
model of the same work and none of `hios_tvm.serving`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

SHAPE = (1, 3, 224, 224)  # 602,112 bytes


def bare(grpc_port: int, http_port: int) -> None:
    """Serve without looking at requests: what gRPC and uvicorn take for themselves."""
    import grpc
    import uvicorn
    import uvloop
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as pb_grpc

    output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": SHAPE[:2]}
    raw = bytes(12)
    answer = pb.ModelInferResponse(outputs=[output], raw_output_contents=[raw])
    output["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"model_name": "mean", "outputs": [output]}).encode()
    headers = {
        "content-length": len(head) + len(raw),
        "inference-header-content-length": len(head),
    }

    class Service(pb_grpc.GRPCInferenceServiceServicer):
        async def ModelInfer(self, request: Any, context: Any) -> Any:
            return answer

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        pairs = [(name.encode(), str(value).encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": head + raw})

    async def serve() -> None:
        server = grpc.aio.server()
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
        server.add_insecure_port(f"127.0.0.1:{grpc_port}")
        await server.start()
        await uvicorn.Server(uvicorn.Config(app, port=http_port, log_config=None)).serve()

    uvloop.run(serve())


def stock(grpc_port: int, http_port: int) -> None:
    """Serve a model of the same work on KServe's server as it is."""
    import logging

    import kserve

    class Mean(kserve.Model):
        async def predict(self, payload: Any, headers: Any = None, _response: Any = None) -> Any:
            mean = payload.inputs[0].as_numpy().mean((2, 3))
            output = kserve.InferOutput("y", list(mean.shape), "FP32")
            output.set_data_from_numpy(mean)
            return kserve.InferResponse("", "mean", [output])

    logging.basicConfig(level="WARNING", force=True)
    asyncio.set_event_loop(asyncio.new_event_loop())
    model = Mean("mean")
    model.load()
    server = kserve.ModelServer(
        http_port=http_port, grpc_port=grpc_port, enable_latency_logging=False
    )
    server.start([model])


OTHERS = {"bare": bare, "kserve": stock}

if __name__ == "__main__":
    kind, *ports = sys.argv[1:]
    sys.argv[1:] = []  # KServe reads it
    OTHERS[kind](*map(int, ports))
