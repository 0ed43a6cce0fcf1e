"""Use case: a waiting request and a free slot become a grant.

Late binding: nothing is sent to a worker before it has a free slot. A request's own delivery is acknowledged only after
the broker has confirmed the grant, so whatever dies in between, the request is somewhere.
"""

import asyncio
import time

import structlog
from prometheus_client import Counter, Histogram
from redis.exceptions import RedisError

from libs.common.contracts.scheduler.inference import AttemptRecord, RequestInference
from libs.common.contracts.tokens import FIRST_EPOCH
from libs.common.contracts.worker import RunInference
from libs.common.errors import RequestCancelled, ServiceError, Unavailable
from libs.common.telemetry import Attributes, current_traceparent, internal_span
from services.scheduler import admission, decisions, deliveries, endings, notices, placement, preemption
from services.scheduler.context import Context
from services.scheduler.fleet import Worker
from services.scheduler.grants import Grant
from services.scheduler.placement import Choice
from services.scheduler.waiting import Lane, Waiting

log = structlog.get_logger(__name__)

WARM_UP_SECONDS = 1.5
"""A scheduler that has just started hears every worker once before it grants."""

MOST_AT_ONCE = 200
"""Grants before others get the event loop."""

_granted = Counter("scheduler_grants_total", "Grants by attempt", ["attempt"])
_refused = Counter("scheduler_refusals_total", "Requests ended by the scheduler", ["code"])
_wait_seconds = Histogram(
    "scheduler_queue_wait_seconds",
    "From arrival to grant",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
)
_wait_error_seconds = Histogram(
    "scheduler_queue_wait_error_seconds",
    "From the estimated moment of the grant to the real one; negative: it came earlier",
    buckets=(-60, -15, -5, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 5, 15, 60),
)


def accept(ctx: Context, waiting: Waiting) -> None:
    """Into the waiting set, unless it is full, or the request was cancelled or is known.

    A request whose confirm was lost is sent twice, one whose acknowledgement was lost is delivered twice.
    """
    request = waiting.request
    ctx.accepted.set()
    ctx.adrift.pop(request.request_id, None)  # as it was before we lost our connection
    if request.request_id in ctx.cancelled:
        drop(ctx, waiting)
    elif (known := ctx.waiting.get(request.request_id) or ctx.granting.get(request.request_id)) is not None:
        assert waiting.delivery is not None
        deliveries.hold(ctx, known, waiting.delivery)
    elif ctx.fleet.holds(request.request_id):
        ctx.tasks.start(waiting.ack(), "ack a duplicate")
    elif not waiting.unsure and admission.full(waiting, ctx.waiting, ctx.settings):
        runner = request.model.runner
        wait = ctx.throughput.wait_seconds(runner, ctx.waiting.waiting_for(runner), time.monotonic())
        refuse(ctx, waiting, admission.overloaded(wait))
    elif not waiting.unsure and (error := _broken(ctx, request.model.runner)) is not None:
        refuse(ctx, waiting, error)
    else:
        ctx.waiting.add(waiting)
        ctx.newcomers.append((waiting, ctx.waiting.position(request.request_id)))
        ctx.wake.set()


def _broken(ctx: Context, runner: str) -> ServiceError | None:
    """A model that keeps failing to load is refused; not while some worker has it in memory."""
    in_memory = any(runner in worker.loaded for worker in ctx.fleet.copies(runner))
    return None if in_memory else ctx.breaker.refusal(runner)


def give_up_model(ctx: Context, runner: str) -> None:
    """It has just failed to load once too often: nobody waits for it any more."""
    if (error := _broken(ctx, runner)) is None:
        return
    for lane in ctx.waiting.lanes():
        if lane.runner == runner:
            for waiting in list(ctx.waiting.of_lane(lane)):
                ctx.waiting.remove(waiting.request.request_id)
                refuse(ctx, waiting, error)


async def dispatch(ctx: Context) -> None:
    """Background loop: grant whatever can be granted each time something changed."""
    await asyncio.sleep(WARM_UP_SECONDS)
    while True:
        await ctx.wake.wait()
        ctx.wake.clear()
        grant_all(ctx)
        await asyncio.sleep(0)  # an event that is set again is waited for without a pause


def grant_all(ctx: Context) -> None:
    """Whoever's turn it is gets a slot, until none is left; a lane that found none is not tried again in this pass.

    Without a connection those that wait may be another scheduler's by now.
    """
    if not ctx.link.steady(ctx.bus):
        return
    ctx.reservation.review(ctx.waiting, ctx.fleet)
    blocked: set[Lane] = set()
    granted = 0
    now, clock = time.time(), time.monotonic()
    while (waiting := ctx.waiting.next_one(blocked)) is not None:
        choice = _place(ctx, waiting, waiting.request, now, clock)
        if choice.worker is None and _is_big(ctx, waiting, now, clock):
            ctx.waiting.set_aside(waiting)
        elif choice.worker is None:
            lane = waiting.lane
            blocked.add(lane)
            if lane.alone:
                ctx.reservation.make(waiting, ctx.fleet, ctx.breaker)
        else:
            _take_slot(ctx, waiting, choice.worker, choice)
            granted += 1
            ctx.reservation.review(ctx.waiting, ctx.fleet)
        if granted == MOST_AT_ONCE:
            ctx.wake.set()
            return
    _greet(ctx)
    preemption.consider(ctx)


def _place(ctx: Context, waiting: Waiting, request: RequestInference, now: float, clock: float) -> Choice:
    wait_seconds = waiting.wait_seconds(now)
    return placement.place(
        request, ctx.fleet, alone=waiting.lane.alone, wait_seconds=wait_seconds, now=clock, breaker=ctx.breaker
    )


def _is_big(ctx: Context, waiting: Waiting, now: float, clock: float) -> bool:
    """Would it get a slot, did it not ask for so much context? Those behind it may."""
    if waiting.big or not waiting.request.num_ctx:
        return False
    usual = waiting.request.model_copy(update={"num_ctx": 0})
    return _place(ctx, waiting, usual, now, clock).worker is not None


def _greet(ctx: Context) -> None:
    """Those that came and found no slot learn when it will be their turn, or that it would be too late."""
    now, clock, staying = time.time(), time.monotonic(), []
    for waiting, position in ctx.newcomers:
        request = waiting.request
        if ctx.waiting.get(request.request_id) is not waiting:
            continue
        waiting.position = min(position, ctx.waiting.position(request.request_id))
        waiting.estimated_wait_seconds = ctx.throughput.wait_seconds(request.model.runner, waiting.position - 1, clock)
        if not waiting.unsure and (error := admission.hopeless(waiting, now)) is not None:
            ctx.waiting.remove(request.request_id)
            refuse(ctx, waiting, error)
        else:
            staying.append(waiting)
    ctx.newcomers.clear()
    notices.send(ctx, staying)


def _take_slot(ctx: Context, waiting: Waiting, worker: Worker, choice: Choice) -> None:
    """The slot is taken at once, the messages follow in a task of their own."""
    request = waiting.request
    decision_json = decisions.compose(waiting, choice, ctx.waiting.counters(waiting))
    flow = ctx.waiting.account(waiting)
    ctx.waiting.remove(request.request_id)
    ctx.meters.start(request.request_id, flow, request.prompt_tokens, request.deadline)
    ctx.granting[request.request_id] = waiting
    lane = waiting.lane
    grant = Grant(request.request_id, waiting.epoch, lane.runner, time.monotonic(), request, lane.alone, sent=False)
    grant.has_others = choice.has_others
    worker.grant(grant)
    ctx.tasks.start(_grant(ctx, waiting, worker, grant, decision_json), "grant")


async def _grant(ctx: Context, waiting: Waiting, worker: Worker, grant: Grant, decision_json: str) -> None:
    request = waiting.request
    try:
        if waiting.unsure and not await _fence(ctx, waiting, worker):
            return
        if worker.fleet is None:
            raise Unavailable("its worker has gone meanwhile")
        grant.epoch, grant.taken = waiting.epoch, False  # what was told of it up to now is an earlier attempt
        await _send_grant(ctx, waiting, worker, grant, decision_json)
    except (Unavailable, RedisError) as error:
        log.warning("grant failed, trying again", request_id=request.request_id, error=str(error))
        worker.take_back(request.request_id)
        ctx.fleet.mark_unreachable(worker.heartbeat.worker_id)
        waiting.unsure = True  # it may have arrived all the same
        if request.request_id in ctx.cancelled:
            drop(ctx, waiting)
        elif waiting.delivery is not None and waiting.delivery.lost:
            ctx.adrift[request.request_id] = waiting
        else:
            deliveries.put_back(ctx, waiting)
    finally:
        _granted_or_not(ctx, waiting)


def _granted_or_not(ctx: Context, waiting: Waiting) -> None:
    """Its grant may have come back already, and be on its way again."""
    if ctx.granting.get(waiting.request.request_id) is waiting:
        del ctx.granting[waiting.request.request_id]


async def _fence(ctx: Context, waiting: Waiting, worker: Worker) -> bool:
    """Take the next free epoch; False if the request has ended meanwhile."""
    outcome = await endings.take_epoch(ctx, waiting.request.request_id, waiting.epoch + 1)
    if await endings.is_over(ctx, waiting.request, outcome, granted_at=0.0):
        worker.take_back(waiting.request.request_id)
        ctx.wake.set()
        await waiting.ack()
        return False
    waiting.epoch, waiting.last_seq, waiting.unsure = outcome.last_epoch, outcome.last_seq, False
    return True


async def _send_grant(ctx: Context, waiting: Waiting, worker: Worker, grant: Grant, decision_json: str) -> None:
    request, waited = waiting.request, time.time() - waiting.arrived_at
    worker_id = worker.heartbeat.worker_id
    attributes: Attributes = {
        "ollamamax.request_id": request.request_id,
        "ollamamax.epoch": waiting.epoch,
        "ollamamax.worker_id": worker_id,
        "ollamamax.queue_wait_ms": round(waited * 1000, 3),
    }
    earlier = tuple(attempt.traceparent for attempt in request.attempts if attempt.traceparent)
    with internal_span("scheduler.grant", attributes, traceparent=waiting.traceparent, links=earlier):
        attempt = AttemptRecord(
            epoch=waiting.epoch,
            worker_id=worker_id,
            node=worker.heartbeat.node,
            granted_at=time.time(),
            traceparent=current_traceparent(),
            decision_json=decision_json,
        )
        granted = grant.request = request.model_copy(update={"attempts": decisions.keep(request.attempts, attempt)})
        command = RunInference(
            request=granted, epoch=waiting.epoch, granted_at=attempt.granted_at, others=grant.has_others
        )
        await ctx.bus.send(command, to=worker_id, message_id=f"{request.request_id}-{waiting.epoch}")
    grant.sent, grant.granted_at = True, time.monotonic()
    _granted_or_not(ctx, waiting)
    _wait_seconds.observe(waited)
    if waiting.estimated_wait_seconds is not None:
        _wait_error_seconds.observe(waited - waiting.estimated_wait_seconds)
    _granted.labels("first" if waiting.epoch == FIRST_EPOCH else "again").inc()
    log.debug(
        "granted", request_id=request.request_id, worker=worker_id, epoch=waiting.epoch, waited_ms=round(waited * 1000)
    )
    await waiting.ack()


def forget(ctx: Context, request_id: str) -> None:
    """Its end is told already: it waited only because its lease had come back first."""
    if (waiting := ctx.waiting.remove(request_id)) is not None:
        ctx.tasks.start(waiting.ack(), "ack an ended request")


def drop(ctx: Context, waiting: Waiting) -> None:
    """Nobody waits for it any more."""
    ctx.tasks.start(endings.end(ctx, waiting, RequestCancelled()), "end a cancelled request")


def refuse(ctx: Context, waiting: Waiting, error: ServiceError) -> None:
    _refused.labels(error.code).inc()
    log.warning("refused", request_id=waiting.request.request_id, code=error.code)
    ctx.tasks.start(endings.end(ctx, waiting, error), "refuse")
