"""The gateway as a value."""

import asyncio
from typing import Final

from starlette.types import ASGIApp

from libs.common.lifecycle import Service
from services.gateway import upkeep
from services.gateway.api import create_app
from services.gateway.context import Context, open_context
from services.gateway.handlers import handlers
from services.gateway.lanes import run_lanes
from services.gateway.settings import Settings

ANSWERING_SHARE: Final = 0.9
"""Of the time to drain; the rest is for saying that the server restarts."""


def public_app(ctx: Context) -> tuple[ASGIApp, str, int]:
    return create_app(ctx), ctx.settings.host, ctx.settings.port


async def drain(ctx: Context, seconds: float) -> None:
    """Say so on the public health routes; the HTTP server itself lets running answers finish.

    They come through Redis, but reports of pulls, pushes and creates through the bus, which is silent from here on.
    What takes too long is told so in time, and goes on without us.
    """
    ctx.draining.set()
    ctx.operations.stop_following()
    ctx.tasks.start(_break_off(ctx, seconds * ANSWERING_SHARE), "break off what takes too long")


async def _break_off(ctx: Context, seconds: float) -> None:
    await asyncio.sleep(seconds)
    for stream in tuple(ctx.answering):
        stream.break_off()


service = Service(
    name="gateway",
    settings=Settings,
    open_context=open_context,
    handlers=handlers,
    public_app=public_app,
    shares_port=lambda ctx: ctx.settings.share_port,
    background=(run_lanes, upkeep.forget_old, upkeep.seal_anew),
    drain=drain,
    uses_postgres=True,
    uses_redis=True,
)
