"""What comes back from a worker waits again exactly once, with the reason; what kills workers is given up."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from libs.common.bus.base import Bus, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.scheduler.inference import AttemptEnd, AttemptRecord, RequestInference
from libs.common.contracts.tokens import Frame, StreamEnd, encode_frame
from libs.common.contracts.worker import RunInference
from libs.common.token_log.store import Append
from services.scheduler import dispatch, failover
from services.scheduler.context import Context
from services.scheduler.grants import Grant
from services.scheduler.handlers import handlers
from services.scheduler.waiting import Waiting
from tests.fixtures.batches import ADelivery
from tests.fixtures.builders import a_heartbeat, a_request
from tests.fixtures.buses import eventually


def attempt(epoch: int = 1, ended: AttemptEnd | None = None) -> AttemptRecord:
    ended_at = time.time() if ended else None
    return AttemptRecord(epoch=epoch, worker_id=f"w{epoch}", granted_at=1.0, ended=ended, ended_at=ended_at)


def granted(*earlier: AttemptEnd) -> RequestInference:
    """For the last time just now; ``earlier`` is how it went before."""
    attempts = [attempt(number, ended) for number, ended in enumerate(earlier, 1)]
    return a_request(attempts=(*attempts, attempt(len(earlier) + 1)))


def back(request: RequestInference, ended: AttemptEnd) -> RequestInference:
    """As its worker hands it back."""
    return request.after(ended, time.time())


def lease(request: RequestInference) -> RunInference:
    last = request.attempts[-1]
    return RunInference(request=request, epoch=last.epoch, granted_at=time.time())


async def error_code(ctx: Context, request: RequestInference) -> str:
    """What it has ended with, as its log says; empty as long as it has not."""
    last = await ctx.token_log.last(request.request_id)
    if last is None or last.frame is None or last.frame.end is None or last.frame.end.error is None:
        return ""
    return last.frame.end.error.code


async def ended_with(ctx: Context, request: RequestInference, code: str) -> None:
    async with asyncio.timeout(10):
        while await error_code(ctx, request) != code:  # noqa: ASYNC110  the effect is in Redis
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("ended", ["engine_failed", "upstream_failed", "drained", "preempted"])
async def test_what_is_handed_back_waits_again(ctx: Context, bus: Bus, ended: AttemptEnd) -> None:
    request = granted()
    ctx.fleet.hear(a_heartbeat(), 0.0)
    ctx.fleet["w1"].grant(Grant(request.request_id, 1, "r", 0.0))
    await bus.send(back(request, ended))
    await eventually(lambda: request.request_id in ctx.waiting)
    waiting = ctx.waiting.get(request.request_id)
    assert waiting is not None
    assert (waiting.epoch, waiting.request.attempts[-1].ended) == (2, ended)
    assert not ctx.fleet.holds(request.request_id)


async def test_what_was_preempted_goes_before_its_flow_and_nobody_else(ctx: Context) -> None:
    for name, priority in (("other", "interactive"), ("own", "batch")):
        ctx.waiting.add(Waiting(a_request(request_id=name, priority=priority), None, 0.0))
    request = back(granted().model_copy(update={"priority": "batch"}), "preempted")
    await failover.handed_back(ctx, request, ADelivery())
    order = [waiting.request.request_id for waiting in ctx.waiting.in_order()]
    assert order == ["other", request.request_id, "own"]


async def test_a_worker_that_dies_between_handing_back_and_letting_go(ctx: Context) -> None:
    """The request comes twice, by the worker's word and by the broker's."""
    request, first, second = granted(), ADelivery(), ADelivery()
    await failover.handed_back(ctx, back(request, "drained"), first)
    await failover.lease_returned(ctx, lease(request), second)
    assert len(ctx.waiting) == 1
    waiting = ctx.waiting.get(request.request_id)
    assert waiting is not None
    assert (waiting.epoch, waiting.losses) == (2, 0)
    await eventually(lambda: first.answer == "ack")
    assert second.answer == "", "one of them is held"


async def test_a_worker_that_told_late_of_what_it_has_left_is_not_taken_for_the_one_that_died(ctx: Context) -> None:
    request = granted("preempted")
    for epoch in (1, 2):
        ctx.fleet.hear(a_heartbeat(worker_id=f"w{epoch}"), time.monotonic())
        ctx.fleet[f"w{epoch}"].grant(Grant(request.request_id, epoch, "r", time.monotonic(), taken=True))
    await failover.lease_returned(ctx, lease(request), ADelivery())
    assert [worker.unreachable for worker in ctx.fleet] == [False, True]
    waiting = ctx.waiting.get(request.request_id)
    assert waiting is not None
    assert waiting.request.attempts[-1].ended == "worker_lost"


async def test_a_worker_that_dies_with_what_had_left_its_slot_gets_nothing_more(ctx: Context) -> None:
    """Heartbeats do not tell of what is only to be told as ended."""
    ctx.fleet.hear(a_heartbeat(), time.monotonic())
    await failover.lease_returned(ctx, lease(granted()), ADelivery())
    assert ctx.fleet["w1"].unreachable


async def test_what_is_handed_back_twice_is_granted_once(ctx: Context) -> None:
    request, second = back(granted(), "drained"), ADelivery()
    await failover.handed_back(ctx, request, ADelivery())
    ctx.waiting.remove(request.request_id)
    ctx.fleet.hear(a_heartbeat(worker_id="w2"), 0.0)
    ctx.fleet["w2"].grant(Grant(request.request_id, 2, "r", 0.0))
    await failover.handed_back(ctx, request, second)
    assert (second.answer, len(ctx.waiting)) == ("ack", 0)


async def test_what_comes_back_while_it_is_being_granted_is_held_until_that_is_sure(ctx: Context) -> None:
    request, old, new = granted(), ADelivery(), ADelivery()
    await failover.handed_back(ctx, back(request, "drained"), old)
    waiting = ctx.waiting.remove(request.request_id)
    assert waiting is not None
    ctx.granting[request.request_id] = waiting
    await failover.handed_back(ctx, back(request, "drained"), new)
    assert (waiting.delivery, new.answer) == (new, "")


async def test_what_was_cancelled_meanwhile_ends(ctx: Context, bus: Bus) -> None:
    request = granted()
    await bus.publish(InferenceCancelled(request_id=request.request_id))
    await eventually(lambda: request.request_id in ctx.cancelled)
    await bus.send(back(request, "preempted"))
    await ended_with(ctx, request, "request_cancelled")
    assert not ctx.waiting


async def test_what_has_ended_meanwhile_is_let_go(ctx: Context) -> None:
    request, delivery = granted(), ADelivery()
    end = Frame(request.request_id, 1, 1, end=StreamEnd())
    await ctx.token_log.append(request.channel, [Append(request.request_id, 1, 1, True, [encode_frame(end)])])
    await failover.handed_back(ctx, back(request, "drained"), delivery)
    assert (delivery.answer, len(ctx.waiting)) == ("ack", 0)


async def test_the_next_scheduler_goes_on_with_what_the_last_one_took_back(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "HEARTBEATS_TELL_SECONDS", 0.1)
    request, delivery = back(granted(), "preempted"), ADelivery()
    await ctx.token_log.raise_epoch(request.request_id, 2)  # by a scheduler that then died
    await failover.handed_back(ctx, request, delivery)
    waiting = ctx.waiting.get(request.request_id)
    assert waiting is not None
    assert (waiting.epoch, delivery.answer) == (3, "")


@pytest.fixture
async def audited(broker: MemoryBroker) -> AsyncIterator["asyncio.Queue[RecordAudit]"]:
    heard: asyncio.Queue[RecordAudit] = asyncio.Queue()
    listening = Handlers("auth")

    @listening.on(RecordAudit)
    async def hear(event: RecordAudit, _context: object) -> None:
        heard.put_nowait(event)

    async with MemoryBus.open(broker, "auth", "a1") as bus:
        await bus.subscribe(listening, None)
        yield heard


async def test_what_kills_every_worker_is_given_up_and_operators_hear_of_it(
    ctx: Context, audited: "asyncio.Queue[RecordAudit]"
) -> None:
    request, delivery = granted("worker_lost", "engine_failed", "worker_silent", "worker_lost"), ADelivery()
    await failover.lease_returned(ctx, lease(request), delivery)
    await ended_with(ctx, request, "attempts_exhausted")
    event = await asyncio.wait_for(audited.get(), 10)
    assert (event.action, event.object) == ("request.poisoned", request.request_id)
    assert event.organization_id == request.organization_id
    assert event.after is not None
    assert len(event.after["lost"]) == 5
    await eventually(lambda: delivery.answer == "ack")


async def test_what_was_nobodys_fault_counts_for_nothing(ctx: Context) -> None:
    innocent: tuple[AttemptEnd, ...] = ("preempted", "drained", "broker_lost", "upstream_failed", "preempted")
    request = granted("worker_lost", "engine_failed", *innocent)
    await failover.handed_back(ctx, back(request, "preempted"), ADelivery())
    waiting = ctx.waiting.get(request.request_id)
    assert waiting is not None
    assert waiting.losses == 2


async def test_a_lease_that_returns_when_our_own_connection_was_lost_is_nobodys_fault(ctx: Context) -> None:
    ctx.link.since = time.monotonic()
    request = granted()
    await failover.lease_returned(ctx, lease(request), ADelivery())
    waiting = ctx.waiting.get(request.request_id)
    assert waiting is not None
    assert waiting.request.attempts[-1].ended == "broker_lost"


async def test_what_came_again_after_our_connection_was_lost_is_not_found_adrift_later(ctx: Context) -> None:
    request, lost = a_request(), ADelivery()
    lost.lost = True
    dispatch.accept(ctx, Waiting(request, lost, time.time()))
    failover.let_drift(ctx)
    dispatch.accept(ctx, Waiting(request, ADelivery(), time.time(), unsure=True))
    assert (len(ctx.waiting), len(ctx.adrift)) == (1, 0)


async def test_what_waits_drifts_with_a_lost_connection_until_it_comes_again(
    broker: MemoryBroker, ctx: Context
) -> None:
    """Of two schedulers the other one takes over; what it does not bring to an end, we get back."""
    fresh, returned = a_request(), back(granted(), "drained")
    await ctx.bus.subscribe(handlers, ctx)
    async with MemoryBus.open(broker, "gateway", "g1") as gateway, MemoryBus.open(broker, "scheduler", "s2") as other:
        held: list[str] = []
        standing_by = Handlers("scheduler")

        @standing_by.on(RequestInference, single_active=True)
        async def take(request: RequestInference, _context: object) -> None:
            held.append(request.request_id)

        await other.subscribe(standing_by, None)
        for request in (fresh, returned):
            await gateway.send(request)
        await eventually(lambda: len(ctx.waiting) == 2)
        ctx.bus.disconnect()  # type: ignore[attr-defined]
        assert not ctx.link.steady(ctx.bus)
        dispatch.grant_all(ctx)
        assert len(ctx.waiting) == 2, "who is not connected grants nothing"
        failover.let_drift(ctx)
        assert (len(ctx.waiting), len(ctx.adrift)) == (0, 2)
        await eventually(lambda: set(held) == {fresh.request_id, returned.request_id})
    await failover.handed_back(ctx, returned, delivery := ADelivery())
    waiting = ctx.waiting.get(returned.request_id)
    assert waiting is not None
    assert (waiting.delivery, waiting.unsure, waiting.epoch) == (delivery, True, 2)
