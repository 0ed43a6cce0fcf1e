"""A gateway that ends: what is told to whom it answers, and who gets its connections."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from libs.common.contracts.gateway import InferenceCancelled
from libs.common.tasks import Tasks
from libs.common.token_log.tail import tail
from libs.common.web import HttpServer
from services.gateway.app import drain
from tests.fixtures.answering import Answering
from tests.fixtures.gateway import Gateway, serving
from tests.fixtures.suite import a_plain_client

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("stream", [True, False])
async def test_what_takes_too_long_is_told_so_and_runs_on(gateway: Gateway, worker: Answering, stream: bool) -> None:
    worker.may_end.clear()
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
        asking = asyncio.create_task(http.post("/api/chat", json={**CHAT, "stream": stream}))
        await worker.has_begun.wait()
        await drain(gateway.ctx, 0.2)
        answer = await asking
        assert (await http.get("/health")).status_code == 503
    assert "this server restarts" in json.loads(answer.text.splitlines()[-1])["error"]
    assert answer.status_code == (200 if stream else 503)
    worker.may_end.set()
    request_id, after = answer.headers["x-request-id"], 1 if stream else 0
    frames = [frame async for frame in tail(gateway.ctx.token_log, request_id, after, time.time() + 20)]
    assert frames[-1].end is not None
    assert not any(isinstance(event, InferenceCancelled) for event in gateway.bus.published)


async def test_the_newest_server_gets_every_new_connection() -> None:
    """Nobody waits at a listener that is about to close, and nobody finds the port closed."""

    def app(name: str) -> Starlette:
        return Starlette(routes=[Route("/", lambda _request: PlainTextResponse(name))])

    async def answers(port: int) -> set[str]:
        async def ask() -> str:
            async with a_plain_client(f"http://127.0.0.1:{port}", timeout=30) as http:
                return (await http.get("/")).text

        return set(await asyncio.gather(*(ask() for _ in range(20))))

    tasks = Tasks()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tasks.cancel_all)
        first = HttpServer.running(app("first"), "127.0.0.1", 0, tasks.start, share_port=True)
        port = await first.__aenter__()
        assert await answers(port) == {"first"}
        second = HttpServer.running(app("second"), "127.0.0.1", port, tasks.start, share_port=True)
        await stack.enter_async_context(second)
        assert await answers(port) == {"second"}
        await first.__aexit__(None, None, None)
        assert await answers(port) == {"second"}
        third = HttpServer.running(app("third"), "127.0.0.1", port, tasks.start, share_port=True)
        await stack.enter_async_context(third)
        assert await answers(port) == {"third"}
