"""What only a real socket shows: clients that go away, and flushing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from libs.common.contracts.inference import InferenceTask
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway, serving


class Client:
    """A bare connection, to be cut where we want."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str, body: Any, *, promise: int = 0) -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {promise or len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        await self._writer.drain()

    async def read_until(self, text: bytes) -> bytes:
        async with asyncio.timeout(20):
            return await self._reader.readuntil(text)

    async def leave(self) -> None:
        self._writer.transport.abort()


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway() as gateway:
        gateway.play = lambda _task: ScriptedStream()  # says nothing until told
        yield gateway


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[Client]:
    async with serving(gateway) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        yield Client(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def the_stream(gateway: Gateway) -> ScriptedStream:
    await asyncio.wait_for(gateway.first_started.wait(), 20)
    return gateway.streams[0]


BODIES = [
    ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
    ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False}),
    ("/api/generate", {"model": "m", "prompt": "x"}),
    ("/api/generate", {"model": "m"}),
    ("/api/embed", {"model": "m", "input": "x"}),
    ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "n": 2}),
    ("/v1/completions", {"model": "m", "prompt": ["x", "y"]}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_a_client_that_leaves_before_the_first_frame(
    gateway: Gateway, client: Client, path: str, body: dict[str, Any]
) -> None:
    await client.post(path, body)
    stream = await the_stream(gateway)
    await client.leave()
    await asyncio.wait_for(stream.closed.wait(), 20)


@pytest.mark.parametrize("stream_too", [True, False])
async def test_a_client_that_leaves_in_the_middle(gateway: Gateway, client: Client, stream_too: bool) -> None:
    await client.post("/api/generate", {"model": "m", "prompt": "x", "stream": stream_too})
    stream = (await the_stream(gateway)).say("one")
    if stream_too:
        await client.read_until(b'"one"')
    await client.leave()
    await asyncio.wait_for(stream.closed.wait(), 20)


async def test_a_client_that_leaves_while_its_request_is_being_sent(gateway: Gateway, client: Client) -> None:
    sent, given_up = asyncio.Event(), asyncio.Event()

    async def start(*_arguments: Any, **_more: Any) -> ScriptedStream:
        sent.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError

    object.__setattr__(gateway.ctx, "start_inference", start)
    await client.post(*BODIES[0])
    await asyncio.wait_for(sent.wait(), 20)
    await client.leave()
    await asyncio.wait_for(given_up.wait(), 20)


async def test_a_client_that_leaves_in_its_body(gateway: Gateway, client: Client) -> None:
    await client.post("/api/chat", {"model": "m"}, promise=10_000)
    await client.leave()
    assert not gateway.started


async def test_each_frame_is_sent_at_once(gateway: Gateway, client: Client) -> None:
    await client.post("/api/generate", {"model": "m", "prompt": "x"})
    stream = await the_stream(gateway)
    for word in ("one", "two", "three"):
        stream.say(word)
        await client.read_until(word.encode() + b'","done":false}\n')
    stream.say(end=END)
    await client.read_until(b"}\n\r\n0\r\n\r\n")
    await asyncio.wait_for(stream.closed.wait(), 20)


async def test_nothing_is_left_behind(gateway: Gateway, client: Client) -> None:
    def hello(_task: InferenceTask) -> ScriptedStream:
        return ScriptedStream().say("a").say(end=END)

    gateway.play = hello
    for _ in range(3):
        await client.post("/api/generate", {"model": "m", "prompt": "x"})
        await client.read_until(b"0\r\n\r\n")
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not names & {"answer a request", "watch a connection"}
    assert all(stream.closed.is_set() for stream in gateway.streams)


@pytest.mark.parametrize(("key", "status"), [("omx_bad", 503), ("", 413)])
async def test_a_refused_body_does_not_stall_its_connection(gateway: Gateway, key: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        for _ in range(2):
            response = await http.post("/api/chat", content=b" " * 40_000_000, headers=headers)
            assert response.status_code == status
        assert (await http.get("/api/version")).status_code == 200


async def test_headers_without_end_are_not_kept(gateway: Gateway) -> None:
    async with serving(gateway) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nX: ")
        with suppress(ConnectionError):
            for _ in range(64):
                writer.write(b"x" * 16_384)
                await writer.drain()
        with suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 20)
            assert answer.startswith(b"HTTP/1.1 400")
        writer.close()
