import asyncio
import time
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libs.common.contracts.inference import Priority
from libs.common.contracts.scheduler.inference import AttemptRecord
from libs.common.contracts.worker import RunInference, WorkerHeartbeat
from libs.common.errors import Unavailable
from libs.common.tasks import Tasks
from services.scheduler import dispatch, failover, sweeping
from services.scheduler.context import Context
from services.scheduler.fleet import GRANT_SETTLES_SECONDS
from services.scheduler.waiting import Waiting
from tests.fixtures.batches import ADelivery
from tests.fixtures.builders import a_heartbeat, a_model, a_request
from tests.fixtures.buses import eventually
from tests.load.simulation import a_context


class NoTasks:
    """Nothing is sent."""

    def start(self, coroutine: Coroutine[Any, Any, Any], _name: str) -> None:
        coroutine.close()


@pytest.fixture
def ctx() -> Context:
    return a_context(NoTasks())


def free(ctx: Context) -> Iterator[str]:
    """The longest running one of each worker ends."""
    for worker in list(ctx.fleet):
        if worker.grants:
            request_id = next(iter(worker.grants))
            ctx.fleet.release(worker.id, request_id)
            yield request_id


def test_who_must_run_alone_comes_to_it_though_others_always_wait(ctx: Context) -> None:
    for number in range(3):
        beat = a_heartbeat(worker_id=f"w{number}", node=f"n{number}", slots=3, slots_per_model=3)
        ctx.fleet.hear(beat, time.monotonic())
    for _ in range(100):
        ctx.waiting.add(Waiting(a_request(), None, time.time()))
    dispatch.grant_all(ctx)
    lost = AttemptRecord(epoch=1, worker_id="gone", granted_at=0, ended="worker_lost")
    suspect = Waiting(a_request(attempts=(lost, lost)), None, time.time())
    ctx.waiting.put_back(suspect)
    for _ in range(3):
        assert sum(len(worker.grants) for worker in ctx.fleet) >= 5, "most of the fleet goes on"
        list(free(ctx))
        dispatch.grant_all(ctx)
    worker = ctx.fleet.holder(suspect.request.request_id)
    assert worker is not None
    assert len(worker.grants) == 1
    assert len(list(free(ctx))) == 3  # it ends
    dispatch.grant_all(ctx)
    assert all(len(worker.grants) == 3 for worker in ctx.fleet)


def a_small_worker() -> WorkerHeartbeat:
    return a_heartbeat(slots=4, slots_per_model=1, memory_available_bytes=10**9, context_length=1000)


def asking_for(context: int, organization: str, arrived_at: float = 0.0, **changes: Any) -> Waiting:
    model = a_model(
        name="m", engine="llama_cpp", weights="sha256:a", size=10**8, kv_bytes_per_token=10**4, context_length=10**6
    )
    request = a_request(model=model, num_ctx=context, organization_id=organization, **changes)
    return Waiting(request, None, arrived_at or time.time())


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_nobody_waits_behind_a_context_that_fits_nowhere(ctx: Context, priority: Priority) -> None:
    """Else one organization could keep all others from a model."""
    ctx.fleet.hear(a_small_worker(), time.monotonic())
    big, small = asking_for(10**6, "a", priority=priority), asking_for(0, "b", priority=priority)
    for waiting in (big, small):
        dispatch.accept(ctx, waiting)
    dispatch.grant_all(ctx)
    assert (big.request.request_id in ctx.waiting, small.request.request_id in ctx.granting) == (True, True)
    ctx.fleet.hear(a_heartbeat(worker_id="w2", node="n2", memory_available_bytes=10**12), time.monotonic())
    ctx.fleet.drain(["n1"])
    dispatch.grant_all(ctx)
    assert not ctx.waiting


def test_what_came_back_is_set_aside_too(ctx: Context) -> None:
    ctx.fleet.hear(a_small_worker(), time.monotonic())
    big, small = asking_for(10**6, "a"), asking_for(0, "b")
    ctx.waiting.put_back(big)
    ctx.waiting.add(small)
    dispatch.grant_all(ctx)
    assert small.request.request_id in ctx.granting
    assert [*ctx.waiting] == [big]
    assert big.lane.big


def test_only_who_asks_for_too_much_is_told_that_nobody_can_run_it(ctx: Context) -> None:
    ctx.fleet.hear(a_small_worker(), time.monotonic())
    big, small = asking_for(10**6, "a"), asking_for(0, "b")
    for waiting in (big, small):
        ctx.waiting.add(waiting)
    ctx.waiting.set_aside(big)
    unable_since: dict[str, float] = {}
    assert sweeping.in_vain(ctx, unable_since, now=0.0) == []
    assert sweeping.in_vain(ctx, unable_since, ctx.settings.no_worker_seconds + 1) == [big]


def test_nobody_is_refused_for_a_moment_without_a_worker_however_long_it_has_queued(ctx: Context) -> None:
    waiting, unable_since, seconds = Waiting(a_request(), None, 0.0), dict[str, float](), ctx.settings.no_worker_seconds
    ctx.waiting.add(waiting)
    for at in (100.0, 100.0 + seconds):
        ctx.fleet.hear(a_heartbeat(), time.monotonic())
        assert sweeping.in_vain(ctx, unable_since, at) == []
        ctx.fleet.mark_unreachable("w1")
        assert sweeping.in_vain(ctx, unable_since, at + 1) == []
    assert sweeping.in_vain(ctx, unable_since, 102.0 + 2 * seconds) == [waiting]


def test_nobody_is_refused_for_workers_that_we_cannot_hear(ctx: Context) -> None:
    cut_off = replace(ctx, bus=cast(Any, SimpleNamespace(connected=False, connections=1)))
    waiting, unable_since, seconds = Waiting(a_request(), None, 0.0), dict[str, float](), ctx.settings.no_worker_seconds
    ctx.waiting.add(waiting)
    for at in (0.0, seconds + 1):
        assert sweeping.in_vain(cut_off, unable_since, at) == []
    for at, found in ((seconds + 2, []), (2 * seconds + 3, [waiting])):
        assert sweeping.in_vain(ctx, unable_since, at) == found


async def test_others_get_the_event_loop_between_two_passes(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx.fleet.hear(a_heartbeat(slots=1000, slots_per_model=1000), time.monotonic())
    for _ in range(3 * dispatch.MOST_AT_ONCE):
        ctx.waiting.add(Waiting(a_request(), None, time.time()))
    monkeypatch.setattr(dispatch, "WARM_UP_SECONDS", 0)
    ctx.wake.set()
    running = asyncio.ensure_future(dispatch.dispatch(ctx))
    try:
        seen = {await _granted_after_a_turn(ctx) for _ in range(10)}
        assert seen >= {dispatch.MOST_AT_ONCE, 2 * dispatch.MOST_AT_ONCE, 3 * dispatch.MOST_AT_ONCE}
    finally:
        running.cancel()


async def _granted_after_a_turn(ctx: Context) -> int:
    await asyncio.sleep(0)
    return len(ctx.granting)


class ABus:
    """Grants are on the way until they are let through, or fail."""

    connected, connections = True, 1

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.confirms = asyncio.Event()
        self.fails = False

    async def send(self, command: RunInference, **_: Any) -> None:
        self.sent.append(command.request.request_id)
        await self.confirms.wait()
        if self.fails:
            raise Unavailable


@pytest.fixture
async def sending(ctx: Context) -> Context:
    return replace(ctx, bus=cast(Any, ABus()), tasks=Tasks())


def bus_of(ctx: Context) -> ABus:
    return cast(ABus, ctx.bus)


async def grant_one(ctx: Context, delivery: ADelivery) -> Waiting:
    """It is on its way."""
    ctx.fleet.hear(a_heartbeat(), time.monotonic())
    waiting = Waiting(a_request(), delivery, time.time())
    dispatch.accept(ctx, waiting)
    dispatch.grant_all(ctx)
    await eventually(lambda: bus_of(ctx).sent)
    return waiting


async def all_told(ctx: Context) -> None:
    bus_of(ctx).confirms.set()
    await eventually(lambda: not len(ctx.tasks))


@pytest.mark.parametrize("lost", [False, True])
async def test_a_failed_grant_waits_again_unless_the_broker_gives_it_to_somebody(sending: Context, lost: bool) -> None:
    """A scheduler that granted what has gone to another one would fence the attempt of that one."""
    delivery = ADelivery()
    delivery.lost = lost
    waiting = await grant_one(sending, delivery)
    bus_of(sending).fails = True
    await all_told(sending)
    request_id = waiting.request.request_id
    assert (request_id in sending.waiting, request_id in sending.adrift) == (not lost, lost)
    assert not sending.granting


async def test_a_slot_is_nobody_elses_while_its_grant_is_on_the_way(sending: Context) -> None:
    waiting = await grant_one(sending, ADelivery())
    grant = sending.fleet["w1"].grants[waiting.request.request_id]
    grant.granted_at -= 2 * GRANT_SETTLES_SECONDS
    sending.fleet.hear(a_heartbeat(), time.monotonic())
    assert sending.fleet.holds(waiting.request.request_id)
    await all_told(sending)
    sending.fleet.hear(a_heartbeat(), time.monotonic())
    assert sending.fleet.holds(waiting.request.request_id), "its worker may not have it yet"
    sending.fleet.hear(a_heartbeat(), time.monotonic() + 2 * GRANT_SETTLES_SECONDS)
    assert not sending.fleet.holds(waiting.request.request_id)


async def test_nothing_is_sent_to_a_worker_that_has_gone_meanwhile(sending: Context) -> None:
    sending.fleet.hear(a_heartbeat(), time.monotonic())
    waiting = Waiting(a_request(), ADelivery(), time.time())
    dispatch.accept(sending, waiting)
    dispatch.grant_all(sending)
    sending.fleet.hear(a_heartbeat(state="offline"), time.monotonic())
    await all_told(sending)
    assert bus_of(sending).sent == []
    assert [*sending.waiting] == [waiting]


async def test_what_comes_again_before_its_loss_is_noticed_does_not_drift(sending: Context) -> None:
    request, old, new = a_request(), ADelivery(), ADelivery()
    dispatch.accept(sending, Waiting(request, old, time.time()))
    old.lost = new.redelivered = True
    dispatch.accept(sending, Waiting(request, new, time.time(), unsure=True))
    failover.let_drift(sending)
    [known] = sending.waiting
    assert (known.delivery, known.unsure, len(sending.adrift)) == (new, True, 0)
    await all_told(sending)
    assert (old.answer, new.answer) == ("ack", "")


async def test_what_comes_again_the_moment_its_grant_is_confirmed_is_let_go_with_it(sending: Context) -> None:
    old, new = ADelivery(), ADelivery()
    waiting = await grant_one(sending, old)
    bus_of(sending).confirms.set()
    dispatch.accept(sending, Waiting(waiting.request, new, time.time()))
    await all_told(sending)
    assert (old.answer, new.answer) == ("ack", "ack")


@pytest.mark.parametrize("by_the_broker", [True, False])
async def test_of_what_comes_back_two_ways_one_delivery_is_kept(sending: Context, by_the_broker: bool) -> None:
    """Its grant was not confirmed, so that it waits; all the same it came to a worker, which then was lost."""
    old, new = ADelivery(), ADelivery() if by_the_broker else None
    request = a_request()
    sending.waiting.put_back(Waiting(request, old, time.time(), unsure=True))
    failover.rejoin(sending, Waiting(request, new, time.time(), epoch=2))
    await all_told(sending)
    [waiting] = sending.waiting
    assert (waiting.epoch, waiting.delivery) == (2, new or old)
    assert old.answer == ("ack" if by_the_broker else "")


async def test_a_grant_that_fails_after_it_came_back_leaves_no_delivery_behind(sending: Context) -> None:
    old, new = ADelivery(), ADelivery()
    waiting = await grant_one(sending, old)
    failover.rejoin(sending, Waiting(waiting.request, new, time.time(), epoch=2))
    bus_of(sending).fails = True
    await all_told(sending)
    assert [*sending.waiting] == [waiting]
    assert waiting.unsure
    assert (old.answer, new.answer) == ("", "ack")
