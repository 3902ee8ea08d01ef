"""How artifacts are served; both commands make their options from the fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hios_tvm.errors import UsageError
from hios_tvm.schema.memory_limits import parse_bytes

LOG_FORMATS = ("text", "json")


def _option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"help": about})


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Ports, limits and logs of a server.

    Raises
    ------
    UsageError
        If a value cannot be used.
    """

    host: str = _option("127.0.0.1", "Address to listen on; 0.0.0.0 is all of this machine.")
    http_port: int = _option(8080, "Port for REST and metrics; 0: one that is free.")
    grpc_port: int = _option(8081, "Port for gRPC; 0: one that is free.")
    queue: int = _option(64, "Requests that may wait for each model; more are refused at once.")
    max_batch: int = _option(
        0, "Rows that requests are joined to, for artifacts with a batch; 1: none, 0: as many."
    )
    max_wait: float = _option(0.0, "Milliseconds that a request waits for others to join it.")
    max_request: str = _option("64MiB", "Largest request; larger ones are refused.")
    max_receive: float = _option(
        60.0, "Seconds that a request over REST may take to arrive, and its answer to be read."
    )
    grace: float = _option(30.0, "Seconds that accepted requests may take after SIGTERM.")
    log_format: str = _option("text", "text, or json: one object a line.")
    log_level: str = _option("info", "debug, info, warning or error.")

    def __post_init__(self) -> None:
        for name in ("http_port", "grpc_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise UsageError(f"--{name.replace('_', '-')} must be between 0 and 65535")
        if self.queue < 1:
            raise UsageError(f"--queue must be at least 1, not {self.queue}")
        if self.max_batch < 0:
            raise UsageError(f"--max-batch must be at least 0, not {self.max_batch}")
        for name in ("max_wait", "max_receive", "grace"):
            if not 0 <= getattr(self, name) < 1e6:
                raise UsageError(f"--{name.replace('_', '-')} must be a number from 0")
        if self.max_receive == 0:
            raise UsageError("--max-receive must be more than 0")
        if not 1024 <= self.max_request_bytes < 2**31:
            raise UsageError("--max-request must be at least 1KiB and less than 2GiB")
        if self.log_format not in LOG_FORMATS:
            raise UsageError(f"--log-format must be text or json, not {self.log_format!r}")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise UsageError(
                f"--log-level must be debug, info, warning or error, not {self.log_level!r}"
            )

    @property
    def max_request_bytes(self) -> int:
        return parse_bytes(self.max_request)
