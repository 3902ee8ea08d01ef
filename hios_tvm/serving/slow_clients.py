"""Connections over HTTP that take too much: time for a request or its answer, or a large head."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LOG = logging.getLogger("hios_tvm.serving")
_ANSWER = (
    b"HTTP/1.1 %b\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)
_HEAD_BYTES = 1 << 16
_BYTES_OF_CHUNKS = 8  # beside each byte of a body


def limited_http(limit_s: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, with limits on what clients may take.

    What is received beside bodies (paths, headers, sizes of chunks) may have 64 KiB for a request,
    and 8 bytes for each of its body. A client that closes its side gets the answers that are due.

    Parameters
    ----------
    limit_s : float
        Seconds from a connection to its first request, from a request's first byte to its last, and
        from an answer to the moment when the client has read it. How long the answer takes to be
        made is not counted.
    """

    class LimitedHttp(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._limit: asyncio.TimerHandle | None = None
            self._head_bytes = 0
            self._has_begun = False
            self._let_take_time_until(self._give_up_request)

        def connection_lost(self, exc: Exception | None) -> None:
            self._in_time()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._has_begun = False
            super().data_received(data)
            if not self._has_begun:  # what came with the first bytes may be of requests before
                self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES and not self.transport.is_closing():
                self._refuse(b"431 Request Header Fields Too Large", "the head is too large")

        def eof_received(self) -> bool:
            cycle = self.cycle
            is_due = cycle is not None and not (cycle.more_body or cycle.response_complete)
            if is_due:
                cycle.keep_alive = False
            return is_due

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head_bytes = 0
            self._has_begun = True
            self._let_take_time_until(self._give_up_request)

        def on_body(self, body: bytes) -> None:
            self._head_bytes -= (1 + _BYTES_OF_CHUNKS) * len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_time()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._limit is None:  # the next request has not begun
                self._let_take_time_until(self._give_up_answer)

        def _let_take_time_until(self, give_up: Callable[[], None]) -> None:
            self._in_time()
            self._limit = self.loop.call_later(limit_s, give_up)

        def _in_time(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

        def _give_up_request(self) -> None:
            if self.flow.read_paused or (self._is_before() and not self.cycle.response_complete):
                self._let_take_time_until(self._give_up_request)  # the server lets it wait
                return
            problem = f"the request did not arrive within {limit_s:g} s"
            self._refuse(b"408 Request Timeout", problem)

        def _is_before(self) -> bool:
            """Whether the latest request with a head has arrived: the next one is waited for."""
            return self.cycle is not None and not self.cycle.more_body

        def _refuse(self, status: bytes, problem: str) -> None:
            _LOG.warning("%s: its connection is closed", problem)
            if self.cycle is None or self._is_before() or not self.cycle.response_started:
                text = b'{"error": "%b"}' % problem.encode()
                self.transport.write(_ANSWER % (status, len(text), text))
            self.transport.close()
            self._let_take_time_until(self._give_up_answer)

        def _give_up_answer(self) -> None:
            if self.transport.get_write_buffer_size() > 0:
                self.transport.abort()

    return LimitedHttp
