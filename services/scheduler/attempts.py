"""Attempts at requests that are under way: the replica that granted them writes them to Redis, where all can read."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import structlog
from pydantic import TypeAdapter
from redis.exceptions import RedisError

from libs.common.contracts.scheduler.inference import AttemptRecord, RequestInference
from libs.common.errors import Unavailable
from services.scheduler.context import Context

log = structlog.get_logger(__name__)

WRITE_SECONDS: Final = 0.5
LONG_SECONDS: Final = 0.5
"""Most requests have ended before anybody asks why they run where they run."""

TTL_SECONDS: Final = 15
JOURNAL_SECONDS: Final = 5
"""After its end, the journal may not have it yet."""

RENEW_SECONDS: Final = 4
"""So that a scheduler that dies leaves nothing behind for long."""

MOST_AT_ONCE: Final = 500
"""Of those that are new; the others come next time."""

Attempts = tuple[AttemptRecord, ...]

_adapter = TypeAdapter(Attempts)


@dataclass
class Shown:
    """What this process has written of a request, and when it last saw to it that it stays."""

    attempts: Attempts
    renewed_at: float


def key(request_id: str) -> str:
    return f"omx:attempts:{request_id}"


async def show(ctx: Context) -> None:
    """Background loop."""
    shown: dict[str, Shown] = {}
    while True:
        await asyncio.sleep(WRITE_SECONDS)
        try:
            await write(ctx, shown, time.monotonic())
        except RedisError as error:
            log.warning("could not show attempts", error=str(error))


async def write(ctx: Context, shown: dict[str, Shown], now: float) -> None:
    """What is new, and now and then that the rest stays, in one call. ``shown`` is kept from call to call."""
    under_way = _under_way(ctx, shown, now)
    news = [each for each in under_way.values() if _is_news(each, shown)][:MOST_AT_ONCE]
    gone = shown.keys() - under_way.keys()
    old = [name for name, each in shown.items() if name not in gone and now - each.renewed_at >= RENEW_SECONDS]
    if not news and not gone and not old:
        return
    async with ctx.redis.pipeline(transaction=False) as pipeline:
        for request_id in old:
            pipeline.expire(key(request_id), TTL_SECONDS)
        for request_id in gone:
            pipeline.expire(key(request_id), JOURNAL_SECONDS)
        for request in news:
            pipeline.set(key(request.request_id), _adapter.dump_json(request.attempts), ex=TTL_SECONDS)
        answers: list[Any] = await pipeline.execute()
    for request_id, is_there in zip(old, answers, strict=False):
        if is_there:
            shown[request_id].renewed_at = now
        else:
            del shown[request_id]  # Redis has lost it: it is new again
    for request_id in gone:
        del shown[request_id]
    shown.update({request.request_id: Shown(request.attempts, now) for request in news})


def _under_way(ctx: Context, shown: Collection[str], now: float) -> dict[str, RequestInference]:
    """What has run for long, and what waits again."""
    found = {waiting.request.request_id: waiting.request for waiting in ctx.waiting.attempted()}
    for worker in ctx.fleet:
        for grant in worker.grants.values():
            if grant.request is not None and (now - grant.granted_at > LONG_SECONDS or grant.request_id in shown):
                found[grant.request_id] = grant.request
    return found


def _is_news(request: RequestInference, shown: dict[str, Shown]) -> bool:
    known = shown.get(request.request_id)
    return known is None or known.attempts != request.attempts


async def read(ctx: Context, request_id: str) -> Attempts:
    """Empty if it has not been granted, or not for long. Raises ``Unavailable``."""
    worker = ctx.fleet.holder(request_id)
    if worker is not None and (granted := worker.grants[request_id].request) is not None:
        return granted.attempts
    if (waiting := ctx.waiting.get(request_id)) is not None:
        return waiting.request.attempts
    try:
        value: Any = await ctx.redis.get(key(request_id))
    except RedisError as error:
        raise Unavailable from error
    return _adapter.validate_json(value) if value is not None else ()
