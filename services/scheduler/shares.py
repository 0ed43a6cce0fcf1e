"""The accounts of fair sharing outlive their scheduler: the replica that grants writes them, the others read them."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Final

import msgspec
import structlog
from redis.exceptions import RedisError

from services.scheduler.context import Context
from services.scheduler.metering import Saved

log = structlog.get_logger(__name__)

KEY: Final = "omx:shares"
TTL_SECONDS: Final = 3600
LOOK_SECONDS: Final = 0.5
FORGET_SECONDS: Final = 1800.0
"""An account of which nothing is heard for so long, or at most twice as long, is forgotten."""

BUSY_SHARE: Final = 0.02
"""Of the time, at most, that this takes."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Saved)


async def keep(ctx: Context) -> None:
    """Background loop."""
    began = forgotten_at = time.monotonic()
    await _try(read(ctx))
    while True:
        await asyncio.sleep(max(LOOK_SECONDS, (time.monotonic() - began) / BUSY_SHARE))
        began = time.monotonic()
        await _try(exchange(ctx))
        if began - forgotten_at > FORGET_SECONDS:
            ctx.meters.forget(time.time())
            forgotten_at = began


async def _try(step: Awaitable[None]) -> None:
    try:
        await step
    except (RedisError, msgspec.DecodeError) as error:
        log.warning("could not exchange the counters of fair sharing", error=str(error))


async def exchange(ctx: Context) -> None:
    """Who takes requests writes; who hears that somebody else does goes on from what that one wrote."""
    if ctx.accepted.is_set():
        await write(ctx)
        ctx.accepted.clear()
    elif await _writer(ctx) != ctx.settings.instance:
        await read(ctx)
    elif ctx.meters.changed:
        await write(ctx)


async def write(ctx: Context) -> None:
    ctx.meters.changed = False
    saved: dict[Any, Any] = {"writer": ctx.settings.instance, "saved": _encoder.encode(ctx.meters.save())}
    async with ctx.redis.pipeline(transaction=True) as pipeline:
        pipeline.hset(KEY, mapping=saved)
        pipeline.expire(KEY, TTL_SECONDS)
        await pipeline.execute()


async def read(ctx: Context) -> None:
    """As another scheduler left them."""
    value: Any = await ctx.redis.hget(KEY, "saved")
    if value is not None:
        ctx.meters.load(_decoder.decode(value))


async def _writer(ctx: Context) -> str | None:
    value: Any = await ctx.redis.hget(KEY, "writer")
    return value.decode() if value is not None else None
