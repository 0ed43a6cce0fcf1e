"""How a request ends that no worker ends: its end is written to the token log, then told as a worker tells it.

Whoever tells an end reads it in the log first, so that all who tell it say the same.
"""

import asyncio
import time
from typing import Final

import structlog
from redis.exceptions import RedisError
from tenacity import retry, retry_if_exception_type, wait_random_exponential

from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.tokens import Frame, StreamEnd, StreamError, Usage, encode_frame
from libs.common.database import EVERY_ORGANIZATION
from libs.common.endings import finished, publish_until_taken
from libs.common.errors import ServiceError, Unavailable
from libs.common.token_log.store import Append, Outcome, Status, log_key, task_key
from services.scheduler.context import Context
from services.scheduler.store import requests as request_store
from services.scheduler.waiting import Waiting

log = structlog.get_logger(__name__)

JOURNAL_SECONDS: Final = 1.0
"""A client waits meanwhile."""

ride_out_redis = retry(
    retry=retry_if_exception_type(RedisError),
    wait=wait_random_exponential(multiplier=0.1, max=1),
    reraise=True,
)
"""Redis may be restarting; what waits for it holds an unacknowledged delivery."""


async def take_epoch(ctx: Context, request_id: str, epoch: int) -> Outcome:
    """Own the request from now on: the first free epoch from ``epoch`` on. OK or ENDED."""
    raise_epoch = ride_out_redis(ctx.token_log.raise_epoch)
    outcome = await raise_epoch(request_id, epoch)
    while outcome.status is Status.FENCED:
        outcome = await raise_epoch(request_id, outcome.last_epoch + 1)
    return outcome


async def is_over(ctx: Context, request: RequestInference, outcome: Outcome, *, granted_at: float) -> bool:
    """Has it ended, as its log said when we took the epoch, or so long ago that the log has expired?"""
    if outcome.status is Status.ENDED:
        await tell(ctx, request, granted_at=granted_at)  # its worker may not have come to it
        return True
    if outcome.last_seq or not await _is_in_journal(ctx, request):
        return False
    await ride_out_redis(ctx.redis.delete)(log_key(request.request_id))
    return True


async def _is_in_journal(ctx: Context, request: RequestInference) -> bool:
    if time.time() - request.accepted_at < ctx.token_log.finished_ttl_seconds:
        return False
    try:
        async with asyncio.timeout(JOURNAL_SECONDS), ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            return await request_store.get_request(tx, request.request_id) is not None
    except (Unavailable, TimeoutError):
        return False  # to run it twice is better than never; it is billed once


async def end(ctx: Context, waiting: Waiting, error: ServiceError) -> None:
    """Unless it has ended already: with this error, where its gateway looks. Only then its delivery is let go."""
    request_id = waiting.request.request_id
    if waiting.unsure:  # somebody may be running it
        owned = await take_epoch(ctx, request_id, waiting.epoch + 1)
        waiting.epoch, waiting.last_seq = owned.last_epoch, owned.last_seq
    usage = await _used(ctx, waiting)
    await _write(ctx, waiting, StreamEnd("error", usage, StreamError(error.code, error.message, error.retry_after)))
    await tell(ctx, waiting.request, granted_at=0.0)
    if waiting.request.task_json is None:
        await ride_out_redis(ctx.redis.delete)(task_key(request_id))
    await waiting.ack()


async def _write(ctx: Context, waiting: Waiting, end: StreamEnd) -> None:
    """Unless somebody else has ended it. Where Redis has lost what was before, after what is left, or written since."""
    request = waiting.request
    while True:
        frame = Frame(request.request_id, waiting.epoch, waiting.last_seq + 1, end=end)
        append = Append(request.request_id, frame.epoch, frame.seq, True, [encode_frame(frame)])
        [outcome] = await ride_out_redis(ctx.token_log.append)(request.channel, [append])
        by_a_fenced_one = outcome.status is Status.FENCED and outcome.last_epoch < frame.epoch
        if outcome.status is not Status.GAP and not by_a_fenced_one:
            return
        waiting.last_seq = outcome.last_seq


async def tell(ctx: Context, request: RequestInference, *, granted_at: float) -> None:
    """Announce the end that is in the log: its worker may have died before it could. Nothing if there is none.

    ``granted_at``: of the attempt that ended it; 0 if none did.
    """
    last = await ride_out_redis(ctx.token_log.last)(request.request_id)
    if last is None or last.frame is None or last.frame.end is None:
        log.warning("nothing tells how a request ended", request_id=request.request_id)
        return
    event = finished(request, last.epoch, last.frame.end, worker_id="", granted_at=granted_at)
    await publish_until_taken(ctx.bus, event)


async def _used(ctx: Context, waiting: Waiting) -> Usage:
    """The tokens that earlier attempts got into the log; their prompts are not known here."""
    if not waiting.last_seq:
        return Usage()
    entries = await ride_out_redis(ctx.token_log.read)(waiting.request.request_id)
    return Usage(0, sum(entry.frame.least_tokens for entry in entries if entry.frame is not None))
