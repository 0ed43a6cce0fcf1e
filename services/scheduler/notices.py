"""A gateway is told once of each request that has to wait: on its channel only, since no log keeps it."""

import msgspec
import structlog
from redis.exceptions import RedisError

from libs.common.contracts.tokens import Frame, Queued
from services.scheduler.context import Context
from services.scheduler.waiting import Waiting

log = structlog.get_logger(__name__)

_encode = msgspec.msgpack.Encoder().encode


def send(ctx: Context, waiting: list[Waiting]) -> None:
    """Never waited for: who misses it only knows less."""
    by_channel: dict[str, list[Frame]] = {}
    for each in waiting:
        assert each.position is not None
        queued = Queued(each.position, each.estimated_wait_seconds)
        frame = Frame(each.request.request_id, 0, 0, queued=queued)
        by_channel.setdefault(each.request.channel, []).append(frame)
    for channel, frames in by_channel.items():
        ctx.tasks.start(_publish(ctx, channel, _encode(frames)), "tell a gateway who waits")


async def _publish(ctx: Context, channel: str, frames: bytes) -> None:
    try:
        await ctx.redis.publish(channel, frames)
    except RedisError as error:
        log.warning("could not tell a gateway who waits", error=str(error))
