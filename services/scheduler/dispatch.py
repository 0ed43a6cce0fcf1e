"""Use case: a waiting request and a free slot become a grant.

Late binding: nothing is sent to a worker before it has a free slot. A request's own delivery is acknowledged only after
the broker has confirmed the grant, so whatever dies in between, the request is somewhere.
"""

import asyncio
import time

import structlog
from prometheus_client import Counter, Gauge, Histogram
from redis.exceptions import RedisError
from tenacity import retry, retry_if_exception_type, wait_random_exponential

from libs.common.bus.base import Delivery
from libs.common.contracts.tokens import FIRST_EPOCH, Frame, StreamEnd, StreamError, encode_frame
from libs.common.contracts.worker import RunInference
from libs.common.errors import AttemptsExhausted, DeadlineExceeded, Overloaded, ServiceError, Unavailable
from libs.common.telemetry import Attributes, internal_span
from libs.common.token_log.store import Append, Outcome, Status
from services.scheduler import placement
from services.scheduler.context import Context
from services.scheduler.fleet import Grant, Worker
from services.scheduler.journal import Row
from services.scheduler.waiting import Waiting

log = structlog.get_logger(__name__)

WARM_UP_SECONDS = 1.5
"""A scheduler that has just started hears every worker once before it grants."""

SWEEP_SECONDS = 0.5

_waiting = Gauge("scheduler_requests_waiting", "Requests that have no worker yet")
_granted = Counter("scheduler_grants_total", "Grants by attempt", ["attempt"])
_refused = Counter("scheduler_refusals_total", "Requests ended by the scheduler", ["code"])
_wait_seconds = Histogram(
    "scheduler_queue_wait_seconds",
    "From arrival to grant",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
)

ride_out_redis = retry(
    retry=retry_if_exception_type(RedisError),
    wait=wait_random_exponential(multiplier=0.1, max=1),
    reraise=True,
)
"""Redis may be restarting; what waits for it holds an unacknowledged delivery."""


def accept(ctx: Context, waiting: Waiting) -> None:
    """Into the waiting set, unless it is full, or the request was cancelled or is known.

    A request whose confirm was lost is sent twice, one whose acknowledgement was lost is delivered twice.
    """
    request = waiting.request
    if request.request_id in ctx.cancelled:
        drop(ctx, waiting)
    elif (known := ctx.waiting.get(request.request_id)) is not None:
        assert waiting.delivery is not None
        ctx.tasks.start(hold(known, waiting.delivery), "ack a duplicate")
    elif request.request_id in ctx.granting or ctx.fleet.holds(request.request_id):
        ctx.tasks.start(_ack(waiting), "ack a duplicate")
    elif len(ctx.waiting) >= ctx.settings.max_waiting:
        refuse(ctx, waiting, Overloaded())
    else:
        ctx.waiting.add(waiting)
        ctx.wake.set()


async def hold(known: Waiting, delivery: Delivery) -> None:
    """After a lost connection the new delivery is the one that counts; to answer the old one then does nothing."""
    old, known.delivery = known.delivery, delivery
    if old is not None:
        await old.ack()


async def dispatch(ctx: Context) -> None:
    """Background loop: grant whatever can be granted each time something changed."""
    await asyncio.sleep(WARM_UP_SECONDS)
    while True:
        await ctx.wake.wait()
        ctx.wake.clear()
        grant_all(ctx)


def grant_all(ctx: Context) -> None:
    """One pass over the waiting set; a model that found no slot is not tried again in this pass."""
    full: set[str] = set()
    for waiting in ctx.waiting:
        runner = waiting.request.model.runner
        if runner in full:
            continue
        worker = placement.place(waiting.request, ctx.fleet)
        if worker is None:
            full.add(runner)
        else:
            _take_slot(ctx, waiting, worker)
    _waiting.set(len(ctx.waiting))


def _take_slot(ctx: Context, waiting: Waiting, worker: Worker) -> None:
    """The slot is taken at once, the messages follow in a task of their own."""
    request = waiting.request
    ctx.waiting.remove(request.request_id)
    ctx.granting.add(request.request_id)
    grant = Grant(request.request_id, waiting.epoch, request.model.runner, time.monotonic(), request)
    worker.grant(grant)
    ctx.tasks.start(_grant(ctx, waiting, worker, grant), "grant")


async def _grant(ctx: Context, waiting: Waiting, worker: Worker, grant: Grant) -> None:
    request = waiting.request
    try:
        if waiting.unsure and not await _fence(ctx, waiting, worker):
            return
        grant.epoch = waiting.epoch
        await _send_grant(ctx, waiting, worker)
    except (Unavailable, RedisError) as error:
        log.warning("grant failed, trying again", request_id=request.request_id, error=str(error))
        worker.take_back(request.request_id)
        ctx.fleet.mark_unreachable(worker.heartbeat.worker_id)
        waiting.unsure = True  # it may have arrived all the same
        if request.request_id in ctx.cancelled:
            drop(ctx, waiting)
        else:
            ctx.waiting.put_back(waiting)
            ctx.wake.set()
    finally:
        ctx.granting.discard(request.request_id)


async def _fence(ctx: Context, waiting: Waiting, worker: Worker) -> bool:
    """Take the next free epoch; False if the request has ended meanwhile."""
    outcome = await take_epoch(ctx, waiting.request.request_id, waiting.epoch + 1)
    if outcome.status is Status.ENDED:
        worker.take_back(waiting.request.request_id)
        ctx.wake.set()
        await _ack(waiting)
        return False
    waiting.epoch, waiting.last_seq, waiting.unsure = outcome.last_epoch, outcome.last_seq, False
    return True


async def take_epoch(ctx: Context, request_id: str, epoch: int) -> Outcome:
    """Own the request from now on: the first free epoch from ``epoch`` on. OK or ENDED."""
    raise_epoch = ride_out_redis(ctx.token_log.raise_epoch)
    outcome = await raise_epoch(request_id, epoch)
    while outcome.status is Status.FENCED:
        outcome = await raise_epoch(request_id, outcome.last_epoch + 1)
    return outcome


async def _send_grant(ctx: Context, waiting: Waiting, worker: Worker) -> None:
    request, waited = waiting.request, time.time() - waiting.arrived_at
    worker_id = worker.heartbeat.worker_id
    attributes: Attributes = {
        "ollamamax.request_id": request.request_id,
        "ollamamax.epoch": waiting.epoch,
        "ollamamax.worker_id": worker_id,
        "ollamamax.queue_wait_ms": round(waited * 1000, 3),
    }
    with internal_span("scheduler.grant", attributes, traceparent=waiting.traceparent):
        command = RunInference(request=request, epoch=waiting.epoch, granted_at=time.time())
        await ctx.bus.send(command, to=worker_id, message_id=f"{request.request_id}-{waiting.epoch}")
    _wait_seconds.observe(waited)
    _granted.labels("first" if waiting.epoch == FIRST_EPOCH else "again").inc()
    log.debug(
        "granted", request_id=request.request_id, worker=worker_id, epoch=waiting.epoch, waited_ms=round(waited * 1000)
    )
    await _ack(waiting)


def drop(ctx: Context, waiting: Waiting) -> None:
    """Nobody waits for it any more."""
    if waiting.last_seq or waiting.epoch > FIRST_EPOCH:
        ctx.tasks.start(_end(ctx, waiting, "request_cancelled", "request canceled"), "end a cancelled request")
    else:
        ctx.tasks.start(_ack(waiting), "ack a cancelled request")
    ctx.journal.add(Row.unstarted(waiting.request, "cancelled", "request_cancelled"))


def refuse(ctx: Context, waiting: Waiting, error: ServiceError) -> None:
    """End it with an error in its token log, where its gateway looks."""
    _refused.labels(error.code).inc()
    log.warning("refused", request_id=waiting.request.request_id, code=error.code)
    ctx.tasks.start(_end(ctx, waiting, error.code, error.message), "refuse")
    ctx.journal.add(Row.unstarted(waiting.request, "failed", error.code))


async def _end(ctx: Context, waiting: Waiting, code: str, message: str) -> None:
    request = waiting.request
    end = StreamEnd(done_reason="error", error=StreamError(code, message))
    frame = Frame(request.request_id, waiting.epoch, waiting.last_seq + 1, end=end)
    append = Append(request.request_id, frame.epoch, frame.seq, True, [encode_frame(frame)])
    await ride_out_redis(ctx.token_log.append)(request.channel, [append])
    await _ack(waiting)


async def _ack(waiting: Waiting) -> None:
    if waiting.delivery is not None:
        await waiting.delivery.ack()


async def sweep(ctx: Context) -> None:
    """Background loop: end the requests that cannot start any more."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = time.time()
        for waiting in ctx.waiting:
            if (error := _too_late(ctx, waiting, now)) is not None:
                ctx.waiting.remove(waiting.request.request_id)
                refuse(ctx, waiting, error)
        _waiting.set(len(ctx.waiting))


def _too_late(ctx: Context, waiting: Waiting, now: float) -> ServiceError | None:
    if now > waiting.request.deadline:
        return DeadlineExceeded()
    if waiting.epoch > ctx.settings.max_attempts:
        return AttemptsExhausted()
    waited_in_vain = now - waiting.arrived_at > ctx.settings.no_worker_seconds
    if waited_in_vain and not placement.able(waiting.request, ctx.fleet):
        return Unavailable("no worker can run this model at the moment; please try again")
    return None
