"""Connections over HTTP that take too long to send a request, or to read its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LOG = logging.getLogger("hios_tvm.serving")
_ANSWER = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)


def limited_http(limit_s: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, with a limit on the time that clients may take.

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
            self._let_take_time_until(self._give_up_request)

        def connection_lost(self, exc: Exception | None) -> None:
            self._in_time()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._let_take_time_until(self._give_up_request)

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
            cycle = self.cycle
            is_before = cycle is not None and not cycle.more_body  # the one before has arrived
            if self.flow.read_paused or (is_before and not cycle.response_complete):
                self._let_take_time_until(self._give_up_request)  # the server lets it wait
                return
            _LOG.warning("a request did not arrive within %g s: its connection is closed", limit_s)
            if cycle is None or is_before or not cycle.response_started:
                text = b'{"error": "the request did not arrive within %g s"}' % limit_s
                self.transport.write(_ANSWER % (len(text), text))
            self.transport.close()
            self._let_take_time_until(self._give_up_answer)

        def _give_up_answer(self) -> None:
            if self.transport.get_write_buffer_size() > 0:
                self.transport.abort()

    return LimitedHttp
