"""Clients that send requests slowly, or read no answer, do not hold their connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

WHY = "serving is not installed: pip install 'hios-tvm[serve]'"
uvicorn = pytest.importorskip("uvicorn", reason=WHY)
server_module = pytest.importorskip("uvicorn.server", reason=WHY)
slow_clients = pytest.importorskip("hios_tvm.serving.slow_clients", reason=WHY)

HANGS_S = 120
BODY = b"POST / HTTP/1.1\r\ncontent-length: 500\r\n\r\n"
SLOW = {
    "nothing": b"",
    "half a head": b"POST / HTTP/1.1\r\nconte",
    "half a body": BODY + b"12",
    "half a second request": b"GET / HTTP/1.1\r\n\r\nGET",
}


async def read_all(_scope: Any, receive: Any, send: Any) -> None:
    """Answer when a request is whole."""
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    await answer(send)


async def answer(send: Any, nbytes: int = 0) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(nbytes)})


@asynccontextmanager
async def server(limit_s: float, app: Any = read_all) -> AsyncIterator[tuple[int, set[Any]]]:
    """Yield the port of a server, and its connections."""
    config = uvicorn.Config(app, http=slow_clients.limited_http(limit_s), lifespan="off")
    config.load()
    state = server_module.ServerState()
    protocol = config.http_protocol_class
    listening = await asyncio.get_running_loop().create_server(
        lambda: protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with listening:
        yield listening.sockets[0].getsockname()[1], state.connections


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), HANGS_S))


@pytest.mark.parametrize("what", SLOW)
def test_requests_that_do_not_arrive_are_given_up(what: str) -> None:
    async def test() -> None:
        async with server(0.2) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(SLOW[what])
            answer = await reader.read()  # until the server closes the connection
            assert b"HTTP/1.1 408 " in answer
            assert answer.endswith(b'{"error": "the request did not arrive within 0.2 s"}')
            writer.close()

    run(test)


def test_a_byte_at_a_time_gets_no_more_time() -> None:
    async def test() -> None:
        async with server(0.2) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(BODY)
            answer = asyncio.create_task(reader.readline())
            while not answer.done():
                writer.write(b"1")
                await asyncio.sleep(0.01)
            assert answer.result().startswith(b"HTTP/1.1 408 ")
            writer.close()

    run(test)


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
    ],
    ids=["path", "headers", "chunk", "trailer"],
)
def test_heads_without_end_are_refused(endless: bytes) -> None:
    async def test() -> None:
        async with server(HANGS_S) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(endless)
            answer = asyncio.create_task(reader.readuntil(b"}"))
            for _ in range(100):  # more than twice the limit
                writer.write(b"a: b\r\n" * 256 if endless.endswith(b"\n") else b"a" * 1536)
                await asyncio.sleep(0)
            assert b"431 Request Header Fields Too Large" in await answer
            writer.transport.abort()

    run(test)


def test_a_body_may_come_in_small_parts_and_its_client_close_its_side() -> None:
    async def test() -> None:
        async with server(HANGS_S) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(100):
                writer.write(b"1\r\n1\r\n" * 200)
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
            writer.write_eof()
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()

    run(test)


def test_answers_that_are_not_read_are_given_up() -> None:
    answered = asyncio.Event()

    async def more_than_a_socket_takes(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, 1 << 25)
        answered.set()

    async def test() -> None:
        async with server(0.2, more_than_a_socket_takes) as (port, connections):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await answered.wait()
            while connections:
                await asyncio.sleep(0.01)
            writer.transport.abort()

    run(test)


def test_the_time_of_an_answer_is_not_limited() -> None:
    """Neither where the client waits alone, nor where it has begun its next request."""
    whole, rest = asyncio.Event(), asyncio.Event()

    async def slow(_scope: Any, _receive: Any, send: Any) -> None:
        whole.set()
        await rest.wait()
        await answer(send)

    async def test() -> None:
        async with server(HANGS_S, slow) as (port, connections):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await whole.wait()
            (connection,) = connections
            assert connection._limit is None
            writer.write(b"GET")
            while connection._limit is None:
                await asyncio.sleep(0.01)
            connection._give_up_request()
            assert not connection.transport.is_closing()
            rest.set()
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()

    run(test)
