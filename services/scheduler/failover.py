"""A worker died, froze or gave a request back: fence what it may still write, and let the request wait again."""

import asyncio
import time

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from libs.common.bus.base import Delivery
from libs.common.contracts.scheduler.inference import AttemptEnd, RequestInference
from libs.common.contracts.worker import RunInference
from libs.common.telemetry import current_traceparent
from libs.common.token_log.store import Status
from services.scheduler import blame, deliveries, dispatch, endings, poison
from services.scheduler.context import Context
from services.scheduler.grants import Grant
from services.scheduler.waiting import Waiting

log = structlog.get_logger(__name__)

HEARTBEATS_TELL_SECONDS = 4.0
"""Long enough for a worker that runs a request to have said so."""

LOOK_SECONDS = 0.25

_failovers = Counter("scheduler_failovers_total", "Requests taken from a worker", ["cause"])


async def lease_returned(ctx: Context, run: RunInference, delivery: Delivery) -> None:
    """The broker gives back a grant: its worker's connection closed, or nobody took it in time."""
    worker = ctx.fleet.get(run.request.attempts[-1].worker_id) if run.request.attempts else None
    grant = worker.grants.get(run.request.request_id) if worker is not None else None
    if worker is not None and (grant is None or grant.epoch == run.epoch):  # none: it was ending there
        ctx.fleet.mark_unreachable(worker.id)  # until it is heard
    if ctx.link.shaken(ctx.bus, time.monotonic()):
        why: AttemptEnd = "broker_lost"  # nobody knows whose fault it was
    else:
        why = blame.of_returned_lease(run, grant, time.time() - run.granted_at)
    await _take_back(ctx, run.request.after(why, time.time()), run.epoch, delivery)


async def handed_back(ctx: Context, request: RequestInference, delivery: Delivery) -> None:
    """Its worker cannot go on with it, and says why."""
    last = request.attempts[-1]
    broken = last.ended == "load_failed" and ctx.breaker.load_failed(request.model.runner, last)
    await _take_back(ctx, request, last.epoch, delivery)
    if broken:
        dispatch.give_up_model(ctx, request.model.runner)


async def _take_back(ctx: Context, request: RequestInference, epoch: int, delivery: Delivery) -> None:
    """Own the request from the epoch after the one that has ended, and let it wait again."""
    request_id = request.request_id
    outcome = await endings.ride_out_redis(ctx.token_log.raise_epoch)(request_id, epoch + 1)
    if outcome.status is Status.FENCED:
        if await _was_taken_back(ctx, request_id, epoch, delivery):
            return
        # Whoever did died before it could grant it.
        outcome = await endings.take_epoch(ctx, request_id, outcome.last_epoch + 1)
    granted_at = request.attempts[-1].granted_at if request.attempts else 0.0
    if await endings.is_over(ctx, request, outcome, granted_at=granted_at):
        await delivery.ack()
        return
    _forget_grants(ctx, request_id)
    waiting = Waiting(
        request, delivery, time.time(), current_traceparent(), epoch=outcome.last_epoch, last_seq=outcome.last_seq
    )
    _wait_again(ctx, waiting)


async def _was_taken_back(ctx: Context, request_id: str, epoch: int, delivery: Delivery) -> bool:
    """Does it wait already, or is a later attempt under way? Heartbeats of one round decide."""
    until = time.monotonic() + HEARTBEATS_TELL_SECONDS
    while time.monotonic() < until:
        if (known := ctx.waiting.get(request_id) or ctx.granting.get(request_id)) is not None:
            deliveries.hold(ctx, known, delivery)
            return True
        if ctx.fleet.running_above(request_id, epoch):
            await delivery.ack()
            return True
        if (known := ctx.adrift.pop(request_id, None)) is not None:
            known.delivery, known.unsure = delivery, True
            rejoin(ctx, known)
            return True
        await asyncio.sleep(0.1)
    return False


def _forget_grants(ctx: Context, request_id: str) -> None:
    while (worker := ctx.fleet.holder(request_id)) is not None:
        worker.take_back(request_id)


def _wait_again(ctx: Context, waiting: Waiting) -> None:
    request_id, cause = waiting.request.request_id, _cause(waiting.request)
    waiting.request = blame.acquit(waiting.request, ctx.fleet, time.time(), time.monotonic())
    _failovers.labels(cause).inc()
    log.warning("failover", request_id=request_id, cause=cause, epoch=waiting.epoch, frames=waiting.last_seq)
    if waiting.losses >= ctx.settings.max_attempts and request_id not in ctx.cancelled:
        poison.give_up(ctx, waiting)
    else:
        rejoin(ctx, waiting)


def rejoin(ctx: Context, waiting: Waiting) -> None:
    """Among those that wait, with the claim to a slot that its last attempt left it."""
    if waiting.request.request_id in ctx.cancelled:
        dispatch.drop(ctx, waiting)
    else:
        deliveries.put_back(ctx, waiting, preempted=_cause(waiting.request) == "preempted")


def _cause(request: RequestInference) -> AttemptEnd:
    return request.attempts[-1].ended or "worker_lost" if request.attempts else "worker_lost"


def let_drift(ctx: Context) -> None:
    """After our connection was lost: what it had brought waits no more for us, unless it has come again."""
    for waiting in ctx.waiting:
        if waiting.delivery is not None and waiting.delivery.lost:
            ctx.waiting.remove(waiting.request.request_id)
            ctx.adrift[waiting.request.request_id] = waiting
    ctx.wake.set()


async def watch_workers(ctx: Context) -> None:
    """Background loop: take the requests of workers that have fallen silent. The broker still holds their leases."""
    looked_at = time.monotonic()
    while not ctx.draining.is_set():
        await asyncio.sleep(LOOK_SECONDS)
        paused = time.monotonic() - looked_at > 4 * LOOK_SECONDS
        looked_at = time.monotonic()
        if ctx.link.look(ctx.bus, looked_at):
            let_drift(ctx)
        if paused or not ctx.bus.connected:
            ctx.fleet.excuse_silence(looked_at)
        for worker in ctx.fleet.remove_silent(time.monotonic(), ctx.settings.worker_silence_seconds):
            log.warning("worker lost", worker=worker.heartbeat.worker_id, requests=len(worker.grants))
            for grant in worker.grants.values():
                why = blame.of_silence(worker, grant)
                ctx.tasks.start(_take_from_silent_worker(ctx, grant, why), "take a request from a silent worker")
    await asyncio.Event().wait()  # nobody is heard any more


async def _take_from_silent_worker(ctx: Context, grant: Grant, why: AttemptEnd) -> None:
    """Without the request itself (another scheduler granted it) the broker's return of the lease has to do."""
    if grant.request is None or grant.request_id in ctx.waiting:
        return
    try:
        outcome = await ctx.token_log.raise_epoch(grant.request_id, grant.epoch + 1)
    except RedisError as error:
        log.warning("could not fence a silent worker", request_id=grant.request_id, error=str(error))
        return
    if outcome.status is Status.OK:
        request = grant.request.after(why, time.time())
        waiting = Waiting(request, None, time.time(), epoch=outcome.last_epoch, last_seq=outcome.last_seq)
        _wait_again(ctx, waiting)
