"""Serve an artifact, for failing_calls.py: ARTIFACT.

Calls fail from the start of the server to its end; in between, a client in a process of its own
makes requests until one is answered, and then ends the server.
"""

from __future__ import annotations

import faulthandler
import http.client
import json
import logging
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import numpy as np
from failing_calls import Calls

import hios_tvm
from hios_tvm.errors import HiosError
from hios_tvm.serving.options import ServerOptions
from hios_tvm.serving.server import serve

_PORT, _GRPC_PORT = 18480, 18481
_LIMIT_S = 60.0


class Serve:
    """Serves in this process."""

    def __init__(self, artifact: str) -> None:
        logging.disable()
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        context.Process(target=_be_client, args=(other, os.getpid()), daemon=True).start()
        other.close()
        self._artifact = artifact
        with hios_tvm.load(artifact) as session:
            inputs = {s.name: np.ones(s.shape, s.dtype) for s in session.inputs}
            outputs = session.run(inputs)
        kinds = {"float32": "FP32", "int64": "INT64"}
        body = [
            {
                "name": k,
                "shape": a.shape,
                "datatype": kinds[a.dtype.name],
                "data": a.ravel().tolist(),
            }
            for k, a in inputs.items()
        ]
        self._request = json.dumps({"inputs": body}).encode()
        self._right = {k: array.ravel().tolist() for k, array in outputs.items()}
        self._options = ServerOptions(http_port=_PORT, grpc_port=_GRPC_PORT, log_level="error")

    def attempt(self, calls: Calls) -> object:
        """Return whether the last answer was right."""
        faulthandler.dump_traceback_later(2 * _LIMIT_S, exit=True)
        self._pipe.send(self._request)
        try:
            with calls.failing():
                serve([f"m={self._artifact}"], [], self._options)
        except (HiosError, OSError, MemoryError) as error:  # as the command reports them
            raise HiosError(str(error).splitlines()[0]) from error
        finally:
            self._pipe.send(None)
            answer = json.loads(self._pipe.recv())
            faulthandler.cancel_dump_traceback_later()
        return {o["name"]: o["data"] for o in answer["outputs"]} == self._right

    def left_behind(self) -> list[str]:
        """Return nothing: no file is written."""
        return []


def _be_client(pipe: Connection, server: int) -> None:
    """For each request that arrives: send it until it is answered, then end the server."""
    while True:
        request = pipe.recv()
        answer, end = b'{"outputs": []}', time.monotonic() + _LIMIT_S
        while not pipe.poll() and time.monotonic() < end:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=5)
                connection.request("POST", "/v2/models/m/infer", request)
                response = connection.getresponse()
                content = response.read()
                if response.status == 200:
                    answer = content
                    break
                json.loads(content)["error"]
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
            finally:
                connection.close()
        if not pipe.poll():
            os.kill(server, signal.SIGTERM)
        pipe.recv()
        pipe.send(answer.decode())


make = Serve
