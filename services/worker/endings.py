"""What is told of an attempt that is over: that its request has ended, or that somebody else has to go on."""

import asyncio
import time

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from libs.common.contracts.scheduler.inference import AttemptEnd
from libs.common.endings import finished, outcome_of, publish_until_taken
from libs.common.errors import ModelLoadFailed, ServiceError
from libs.common.token_log.store import task_key
from libs.common.token_log.writer import Fenced, RequestLog
from services.worker.attempt import Attempt
from services.worker.context import Context

log = structlog.get_logger(__name__)

attempts = Counter("worker_attempts_total", "Attempts by outcome", ["outcome"])


async def hand_back(
    ctx: Context, attempt: Attempt, request_log: RequestLog, why: AttemptEnd, message: str = ""
) -> None:
    """Whoever goes on needs all that was made; only then the scheduler is asked to find one.

    Raises ``Fenced`` if it has found one already, ``Unavailable`` if it cannot be asked: then the lease asks it.
    """
    request = attempt.request
    log.info("handing back", request_id=request.request_id, epoch=attempt.run.epoch, why=why)
    attempts.labels(why).inc()
    try:
        async with asyncio.timeout(request.deadline - time.time()):
            await request_log.flush()
    except TimeoutError:
        raise Fenced("its deadline passed while Redis was away") from None
    message_id = f"{request.request_id}-{attempt.run.epoch}-back"
    await ctx.bus.send(request.after(why, time.time(), message), message_id=message_id)


async def announce(ctx: Context, attempt: Attempt, error: ServiceError | None) -> None:
    """Returns when the broker has the event, however long that takes: the answer is complete, only the books wait."""
    request = attempt.request
    attempts.labels(outcome_of(attempt.end)).inc()
    if request.task_json is None:
        await _delete_task(ctx, request.request_id)
    event = finished(
        request,
        attempt.run.epoch,
        attempt.end,
        worker_id=ctx.instance,
        runner=request.model.runner,
        error_message=error.message if isinstance(error, ModelLoadFailed) else "",
        granted_at=attempt.run.granted_at,
        first_token_at=attempt.first_token_at,
    )
    await publish_until_taken(ctx.bus, event)


async def _delete_task(ctx: Context, request_id: str) -> None:
    try:
        await ctx.redis.delete(task_key(request_id))
    except RedisError as error:
        log.warning("could not delete a finished task; it expires", request_id=request_id, error=str(error))
