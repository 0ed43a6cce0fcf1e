"""Attempts at requests under way, as a replica shows them that has not made them."""

import time

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.scheduler.inference import AttemptEnd, AttemptRecord, RequestInference
from libs.common.contracts.scheduler.requests import GetRequest, RequestDetails
from libs.common.contracts.tokens import Frame, StreamEnd, encode_frame
from libs.common.token_log.store import Append, Card
from services.scheduler import attempts, decisions, placement, queue
from services.scheduler.context import Context
from services.scheduler.fleet import Fleet
from services.scheduler.grants import Grant
from services.scheduler.waiting import Waiting
from tests.fixtures.builders import a_heartbeat, a_request
from tests.integration.scheduler.conftest import act_for

Shown = dict[str, attempts.Shown]


async def a_granted_request(organization: str = "o", ended: AttemptEnd | None = None) -> RequestInference:
    fleet = Fleet()
    fleet.hear(a_heartbeat(), now=0)
    request = a_request(organization_id=organization, user_id="u")
    counters = {"organization": 9.0, "key": 3.0, "least": 1.0}
    text = decisions.compose(Waiting(request, None, time.time()), placement.place(request, fleet), counters)
    attempt = AttemptRecord(epoch=1, worker_id="w1", node="n1", granted_at=1.0, ended=ended, decision_json=text)
    return request.model_copy(update={"attempts": (attempt,)})


async def write_card(ctx: Context, request: RequestInference) -> None:
    card = Card(
        request.organization_id, "u", "", "echo", "chat", request.priority, request.accepted_at, request.deadline
    )
    await ctx.token_log.write_card(request.request_id, card)


def run(ctx: Context, request: RequestInference, granted_at: float) -> None:
    ctx.fleet.hear(a_heartbeat(), time.monotonic())
    ctx.fleet["w1"].grant(Grant(request.request_id, 1, request.model.runner, granted_at, request))


async def seen_elsewhere(ctx: Context, bus: Bus, request: RequestInference) -> RequestDetails:
    """By a replica that hears the same workers, and has granted and received nothing."""
    for worker in ctx.fleet:
        for grant in worker.grants.values():
            grant.request = None
    return await bus.ask(GetRequest(request_id=request.request_id))


async def test_any_replica_tells_why_a_request_runs_where_it_runs(ctx: Context, bus: Bus) -> None:
    request = await a_granted_request()
    await write_card(ctx, request)
    run(ctx, request, granted_at=1.0)
    await attempts.write(ctx, {}, now=2.0)
    act_for("o")
    details = await seen_elsewhere(ctx, bus, request)
    assert details.status == "running"
    (attempt,) = details.attempts
    assert attempt.decision is not None
    assert attempt.decision.chosen == "w1"
    assert decisions.decide_again(attempt.decision) == []
    left = await ctx.redis.ttl(attempts.key(request.request_id))
    assert 0 < left <= attempts.TTL_SECONDS, "not for long, whatever becomes of us"


async def test_the_last_attempt_ended_as_the_request_did_before_the_journal_knows(ctx: Context, bus: Bus) -> None:
    request = await a_granted_request()
    await write_card(ctx, request)
    run(ctx, request, granted_at=1.0)
    await attempts.write(ctx, {}, now=2.0)
    end = encode_frame(Frame(request.request_id, 1, 1, end=StreamEnd()))
    await ctx.token_log.append("", [Append(request.request_id, 1, 1, True, [end])])
    act_for("o")
    (attempt,) = (await seen_elsewhere(ctx, bus, request)).attempts
    assert attempt.ended == "done"
    assert attempt.ended_at


async def test_what_has_just_begun_is_not_written_down(ctx: Context) -> None:
    request = await a_granted_request()
    run(ctx, request, granted_at=1.8)
    await attempts.write(ctx, {}, now=2.0)
    assert not await ctx.redis.exists(attempts.key(request.request_id))


async def test_it_is_written_once_and_forgotten_soon_after_its_end(ctx: Context) -> None:
    request, shown = await a_granted_request(), Shown()
    key = attempts.key(request.request_id)
    run(ctx, request, granted_at=1.0)
    await attempts.write(ctx, shown, now=2.0)
    await ctx.redis.set(key, "[]", ex=attempts.TTL_SECONDS)
    await attempts.write(ctx, shown, now=3.0)
    assert await ctx.redis.get(key) == b"[]", "there was no news"
    ctx.fleet.release("w1", request.request_id)
    await attempts.write(ctx, shown, now=4.0)
    assert 0 < await ctx.redis.ttl(key) <= attempts.JOURNAL_SECONDS
    assert shown == {}


async def test_what_stays_is_renewed_without_being_written_again(ctx: Context) -> None:
    request, shown = await a_granted_request(), Shown()
    key = attempts.key(request.request_id)
    run(ctx, request, granted_at=1.0)
    await attempts.write(ctx, shown, now=2.0)
    await ctx.redis.set(key, "[]", ex=10)
    await attempts.write(ctx, shown, now=2.0 + attempts.RENEW_SECONDS)
    assert await ctx.redis.get(key) == b"[]"
    assert await ctx.redis.ttl(key) > 10
    await ctx.redis.expire(key, 1)
    await attempts.write(ctx, shown, now=2.5 + attempts.RENEW_SECONDS)
    assert await ctx.redis.ttl(key) <= 1, "once each time"


async def test_what_redis_has_lost_is_written_again(ctx: Context) -> None:
    request, shown = await a_granted_request(), Shown()
    key = attempts.key(request.request_id)
    run(ctx, request, granted_at=1.0)
    await attempts.write(ctx, shown, now=2.0)
    await ctx.redis.delete(key)
    await attempts.write(ctx, shown, now=2.0 + attempts.RENEW_SECONDS)
    await attempts.write(ctx, shown, now=2.5 + attempts.RENEW_SECONDS)
    assert await ctx.redis.exists(key)


async def test_of_very_many_new_ones_some_are_written_later(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_AT_ONCE", 2)
    shown = Shown()
    for _ in range(3):
        ctx.waiting.put_back(Waiting(await a_granted_request(), None, time.time()))
    for now, written in ((2.0, 2), (2.5, 3)):
        await attempts.write(ctx, shown, now)
        assert len(shown) == written


@pytest.mark.parametrize("preempted", [False, True])
async def test_the_next_scheduler_shows_what_was_granted_before_it(ctx: Context, preempted: bool) -> None:
    request = (await a_granted_request()).after("preempted", 5.0)
    ctx.waiting.put_back(Waiting(request, None, time.time(), epoch=2), preempted=preempted)
    await attempts.write(ctx, Shown(), now=2.0)
    assert await ctx.redis.exists(attempts.key(request.request_id))


@pytest.mark.parametrize("preempted", [False, True])
async def test_a_request_that_waits_again_shows_what_became_of_it(ctx: Context, bus: Bus, preempted: bool) -> None:
    request, shown = await a_granted_request(), Shown()
    await write_card(ctx, request)
    run(ctx, request, granted_at=1.0)
    await attempts.write(ctx, shown, now=2.0)
    ctx.fleet.release("w1", request.request_id)
    again = request.after("preempted" if preempted else "worker_lost", 5.0)
    ctx.waiting.put_back(Waiting(again, None, time.time(), epoch=2), preempted=preempted)
    await attempts.write(ctx, shown, now=3.0)
    await queue.write(ctx)
    ctx.waiting.remove(request.request_id)
    act_for("o")
    details = await seen_elsewhere(ctx, bus, request)
    assert (details.status, details.position) == ("waiting", 1)
    assert [attempt.ended for attempt in details.attempts] == ["preempted" if preempted else "worker_lost"]


@pytest.mark.parametrize(
    ("organization", "user", "sees"),
    [
        ("o", "u", {"organization": 9.0, "key": 3.0}),
        ("o", None, {"organization": 9.0, "key": 3.0}),
        ("default", "u", {"organization": 9.0, "key": 3.0}),
        ("default", None, {"organization": 9.0, "key": 3.0, "least": 1.0}),
    ],
)
async def test_what_others_were_served_is_told_to_those_who_run_the_installation(
    ctx: Context, bus: Bus, organization: str, user: str | None, sees: dict[str, float]
) -> None:
    request = await a_granted_request(organization)
    await write_card(ctx, request)
    run(ctx, request, granted_at=1.0)
    act_for(organization)
    details = await bus.ask(GetRequest(request_id=request.request_id, user_id=user))
    assert details.attempts[0].decision is not None
    assert details.attempts[0].decision.counters == sees
