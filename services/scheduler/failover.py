"""A worker died, froze or gave a request back: fence what it may still write, and let the request wait again."""

import asyncio
import time

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from libs.common.bus.base import Delivery
from libs.common.contracts.worker import RunInference
from libs.common.errors import AttemptsExhausted
from libs.common.telemetry import current_traceparent
from libs.common.token_log.store import Status
from services.scheduler import dispatch
from services.scheduler.context import Context
from services.scheduler.fleet import Grant
from services.scheduler.waiting import Waiting

log = structlog.get_logger(__name__)

HEARTBEATS_TELL_SECONDS = 4.0
"""Long enough for a worker that runs a request to have said so."""

LOOK_SECONDS = 0.25

_failovers = Counter("scheduler_failovers_total", "Requests taken from a worker", ["cause"])


async def lease_returned(ctx: Context, run: RunInference, delivery: Delivery) -> None:
    """The broker gives back a grant: its worker's connection closed, or nobody took it in time."""
    request = run.request
    outcome = await dispatch.ride_out_redis(ctx.token_log.raise_epoch)(request.request_id, run.epoch + 1)
    if outcome.status is Status.FENCED:
        if (known := ctx.waiting.get(request.request_id)) is not None:
            await dispatch.hold(known, delivery)
            return
        if await _runs_elsewhere(ctx, run):
            await delivery.ack()
            return
        # Whoever fenced it died before it could grant it.
        outcome = await dispatch.take_epoch(ctx, request.request_id, outcome.last_epoch + 1)
    if outcome.status is Status.ENDED:
        await delivery.ack()
        return
    _forget_grants(ctx, request.request_id)
    waiting = Waiting(
        request, delivery, time.time(), current_traceparent(), epoch=outcome.last_epoch, last_seq=outcome.last_seq
    )
    _wait_again(ctx, waiting, "lease returned")


async def _runs_elsewhere(ctx: Context, run: RunInference) -> bool:
    """Is a later attempt under way or about to be? Heartbeats of one round decide."""
    request_id = run.request.request_id
    until = time.monotonic() + HEARTBEATS_TELL_SECONDS
    while time.monotonic() < until:
        if request_id in ctx.waiting or request_id in ctx.granting or ctx.fleet.running_above(request_id, run.epoch):
            return True
        await asyncio.sleep(0.1)
    return False


def _forget_grants(ctx: Context, request_id: str) -> None:
    for worker in ctx.fleet:
        worker.take_back(request_id)


def _wait_again(ctx: Context, waiting: Waiting, cause: str) -> None:
    request_id = waiting.request.request_id
    _failovers.labels(cause).inc()
    log.warning("failover", request_id=request_id, cause=cause, epoch=waiting.epoch, frames=waiting.last_seq)
    if waiting.epoch > ctx.settings.max_attempts:
        dispatch.refuse(ctx, waiting, AttemptsExhausted())
    elif request_id in ctx.cancelled:
        dispatch.drop(ctx, waiting)
    else:
        ctx.waiting.put_back(waiting)
        ctx.wake.set()


async def watch_workers(ctx: Context) -> None:
    """Background loop: take the requests of workers that have fallen silent. The broker still holds their leases."""
    looked_at = time.monotonic()
    while not ctx.draining.is_set():
        await asyncio.sleep(LOOK_SECONDS)
        paused = time.monotonic() - looked_at > 4 * LOOK_SECONDS
        looked_at = time.monotonic()
        if paused or not ctx.bus.connected:
            ctx.fleet.excuse_silence(looked_at)
        for worker in ctx.fleet.remove_silent(time.monotonic(), ctx.settings.worker_silence_seconds):
            log.warning("worker lost", worker=worker.heartbeat.worker_id, requests=len(worker.grants))
            for grant in worker.grants.values():
                ctx.tasks.start(_take_from_silent_worker(ctx, grant), "take a request from a silent worker")
    await asyncio.Event().wait()  # nobody is heard any more


async def _take_from_silent_worker(ctx: Context, grant: Grant) -> None:
    """Without the request itself (another scheduler granted it) the broker's return of the lease has to do."""
    if grant.request is None or grant.request_id in ctx.waiting:
        return
    try:
        outcome = await ctx.token_log.raise_epoch(grant.request_id, grant.epoch + 1)
    except RedisError as error:
        log.warning("could not fence a silent worker", request_id=grant.request_id, error=str(error))
        return
    if outcome.status is Status.OK:
        waiting = Waiting(grant.request, None, time.time(), epoch=outcome.last_epoch, last_seq=outcome.last_seq)
        _wait_again(ctx, waiting, "worker silent")
