"""Clients that go away or stop: what is done for them is given up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from typing import Any, Final, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Send

from libs.common.errors import Unavailable

T = TypeVar("T")

PAUSE_SECONDS: Final = 60.0
"""A client that sends nothing, or takes nothing, for so long is given up."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``; when the client goes away, cancel it and wait for its clean-up. The body has been read before."""
    working = asyncio.create_task(work, name="answer a request")
    gone = asyncio.create_task(_disconnected(receive), name="watch a connection")
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)
    if not working.cancelled():
        working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def in_time(coming: Awaitable[T]) -> T:
    """The next piece of what a client sends. Raises ``Unavailable`` if it stops."""
    try:
        async with asyncio.timeout(PAUSE_SECONDS):
            return await coming
    except TimeoutError:
        raise Unavailable("the upload stopped") from None


async def send_in_time(response: Response, pieces: AsyncIterator[bytes], send: Send) -> None:
    """Its status, its headers, and a body of these. Raises ``TimeoutError`` if either side stops."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PAUSE_SECONDS) as patience:
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            patience.reschedule(loop.time() + PAUSE_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
