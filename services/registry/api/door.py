"""Who may come in, and what bodies and files are like behind every route."""

import asyncio
from collections.abc import AsyncIterator
from secrets import compare_digest
from typing import Annotated, Final

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse

from libs.common import actor
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import RequestCancelled, TooLarge, Unauthenticated
from services.registry.blobs import Blob
from services.registry.context import Context

PAUSE_SECONDS: Final = 120.0
"""Of a body: longer than gateways wait for its sender. Who is silent for so long is gone without a goodbye."""


async def _context_for_services(request: Request) -> Context:
    """Raises ``Unauthenticated`` unless the caller shows the token that workers and gateways share with us.

    A gateway says on whose behalf it asks; a worker works for all.
    """
    ctx: Context = request.app.state.context
    expected = f"Bearer {ctx.settings.blob_token.get_secret_value()}"
    if not compare_digest(request.headers.get("authorization", "").encode(), expected.encode()):
        raise Unauthenticated
    said = request.headers.get(actor.HEADER)
    actor.become(actor.Actor(organization_id=EVERY_ORGANIZATION) if said is None else actor.decode(said))
    return ctx


Ctx = Annotated[Context, Depends(_context_for_services)]


async def body_of(request: Request, limit: int) -> AsyncIterator[bytes]:
    """As it comes. Raises ``TooLarge`` as soon as it is known to exceed ``limit`` bytes.

    ``RequestCancelled`` if its sender goes away or does not go on.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge
    size, stream = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(PAUSE_SECONDS):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except (ClientDisconnect, TimeoutError):
            raise RequestCancelled from None
        size += len(chunk)
        if size > limit:
            raise TooLarge
        yield chunk


class BlobResponse(FileResponse):
    """The whole blob, or the ranges asked for."""

    chunk_size = 512 * 1024

    def __init__(self, ctx: Context, blob: Blob) -> None:
        super().__init__(
            ctx.blobs.path(blob.digest),
            media_type="application/octet-stream",
            headers={"etag": f'"{blob.digest}"', "docker-content-digest": blob.digest},
        )
