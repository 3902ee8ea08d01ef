"""Clients of a fleet that ask all the time, and compare every answer; for `check_fleet.py`."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

MODEL = "one"
HTTP_PORT, GRPC_PORT = 18000, 19000
EXAMPLES = 8  # inputs that clients choose from
_CLIENTS = ((triton_http, HTTP_PORT), (triton_grpc, GRPC_PORT))
_THINK_S = 0.02  # between the requests of a client: nodes and clients share the cores
_MAX_BROKEN = 100  # connections for one request
Outputs = Mapping[str, list[np.ndarray]]  # by version


@dataclass
class Phase:
    """What clients saw while one thing happened; `answers` are by version."""

    name: str
    answers: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    broken: int = 0  # connections
    retried: int = 0  # by front doors
    lost: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    note: str = ""


class Load:
    """Clients that ask all the time, and compare."""

    def __init__(self, inputs: list[np.ndarray], expected: Outputs) -> None:
        self._inputs = inputs
        self._expected = expected
        self._lock = threading.Lock()
        self._wanted = 0
        self._threads: list[threading.Thread] = []
        self.phase = Phase("")

    def set_clients(self, count: int) -> None:
        """Let so many clients ask, half of them by each protocol."""
        self._wanted = count
        while len(self._threads) < count:
            thread = threading.Thread(target=self._ask, args=(len(self._threads),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End all clients when they have their answers."""
        self._wanted = 0
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        client: Any = None
        while self._wanted:
            if number >= self._wanted:
                time.sleep(0.05)
                continue
            module, port = _CLIENTS[number % 2]
            i = rng.randrange(EXAMPLES)
            given = module.InferInput("x", list(self._inputs[i].shape), "FP32")
            given.set_data_from_numpy(self._inputs[i])
            start, broken, problem = time.monotonic(), 0, ""
            result: Any = None
            while result is None and not problem:
                try:
                    client = client or module.InferenceServerClient(f"127.0.0.1:{port}")
                    result = client.infer(MODEL, [given])
                except Exception as error:
                    client = None
                    time.sleep(_THINK_S)
                    broken += _is_broken_connection(error)
                    if broken > _MAX_BROKEN or not _is_broken_connection(error):
                        problem = f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - start
            time.sleep(_THINK_S)
            version = None if result is None else _version(result)
            wrong = version is not None and not np.array_equal(
                result.as_numpy("y"), self._expected[version][i]
            )
            phase = self.phase
            with self._lock:
                phase.broken += broken
                phase.longest_s = max(phase.longest_s, seconds)
                phase.wrong += wrong
                if version is None:
                    phase.lost[problem] += 1
                else:
                    phase.answers[version] += 1


def _version(result: Any) -> str:
    response = result.get_response()
    return str(response["model_version"] if isinstance(response, dict) else response.model_version)


def _is_broken_connection(error: Exception) -> bool:
    """Whether the front door went away, so that there was no answer at all."""
    if isinstance(error, InferenceServerException):
        text = str(error)
        return error.status() == "StatusCode.UNAVAILABLE" and any(
            word in text for word in ("onnect", "ocket", "recvmsg", "GOAWAY")
        )
    return isinstance(error, (OSError, HTTPException))
