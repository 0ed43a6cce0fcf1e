"""Fair sharing across schedulers, and what those who wait are told, on a real Redis."""

import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

from libs.common.bus.base import Bus
from libs.common.contracts.tokens import Queued
from libs.common.settings import RedisSettings
from libs.common.token_log.follower import LogFollower
from services.scheduler import dispatch, notices, shares
from services.scheduler.accounts import cost_of
from services.scheduler.context import Context
from services.scheduler.waiting import Waiting
from tests.fixtures.builders import a_heartbeat, a_request, an_end, running
from tests.fixtures.buses import eventually


def counter(ctx: Context, organization: str = "o") -> float:
    return ctx.waiting.classes["interactive"].child(organization).counter


@pytest.fixture(autouse=True)
async def afresh(ctx: Context) -> AsyncIterator[None]:
    await ctx.redis.delete(shares.KEY)
    yield
    await ctx.tasks.cancel_all()


async def test_a_stand_by_goes_on_with_the_counters_of_the_one_that_granted(ctx: Context) -> None:
    waiting = Waiting(a_request(organization_id="o"), None, time.time())
    dispatch.accept(ctx, waiting)
    ctx.meters.start("r", ctx.waiting.account(waiting), 100, time.time() + 60)
    await shares.exchange(ctx)
    ctx.meters.progress("r", 100, 50)
    await ctx.redis.hset(shares.KEY, "writer", "another")
    await shares.exchange(ctx)
    assert counter(ctx) == cost_of(100, 0)


async def test_who_granted_last_writes(ctx: Context) -> None:
    waiting = Waiting(a_request(organization_id="o"), None, time.time())
    dispatch.accept(ctx, waiting)
    await shares.exchange(ctx)
    assert await ctx.redis.hget(shares.KEY, "writer") == ctx.settings.instance.encode()
    ctx.meters.start("r", ctx.waiting.account(waiting), 100, time.time() + 60)
    await shares.exchange(ctx)
    await shares.exchange(ctx)
    await shares.read(ctx)
    assert counter(ctx) == cost_of(100, 0)


async def test_tokens_are_charged_as_workers_tell(ctx: Context, bus: Bus) -> None:
    waiting = Waiting(a_request(request_id="r", organization_id="o"), None, time.time())
    ctx.meters.start("r", ctx.waiting.account(waiting), 10, time.time() + 60)
    at = running("r").model_copy(update={"prompt_tokens": 10, "completion_tokens": 4})
    await bus.publish(a_heartbeat(running=(at,)))
    await eventually(lambda: counter(ctx) == cost_of(10, 4))
    await bus.publish(an_end(request_id="r", organization_id="o", prompt_tokens=8, completion_tokens=6))
    await eventually(lambda: counter(ctx) == cost_of(8, 6))


async def test_a_gateway_is_told_who_waits(ctx: Context, redis_url: str) -> None:
    settings = RedisSettings(url=SecretStr(redis_url))
    async with LogFollower.open(ctx.redis, settings, uuid4().hex, ctx.tasks.start) as follower:
        request = a_request(channel=follower.channel)
        following = follower.follow(request.request_id, request.deadline)
        notices.send(ctx, [Waiting(request, None, time.time(), position=3, estimated_wait_seconds=1.5)])
        await eventually(lambda: following.queued == Queued(3, 1.5))


async def test_who_finds_no_slot_learns_its_place(ctx: Context) -> None:
    first, second = (Waiting(a_request(), None, time.time()) for _ in range(2))
    dispatch.accept(ctx, first)
    dispatch.accept(ctx, second)
    dispatch.grant_all(ctx)
    assert (first.position, second.position) == (1, 2)
    assert not ctx.newcomers


async def test_whose_turn_would_come_too_late_does_not_wait(ctx: Context) -> None:
    runner, now = a_request().model.runner, time.monotonic()
    ctx.throughput.started(runner, "done", now - 100)
    ctx.throughput.ended("done", now)
    ctx.throughput.started(runner, "running", now)
    late = Waiting(a_request(deadline=time.time() + 5), None, time.time())
    dispatch.accept(ctx, late)
    dispatch.grant_all(ctx)
    assert not ctx.waiting
    await eventually(lambda: not len(ctx.tasks))
    last = await ctx.token_log.last(late.request.request_id)
    assert last is not None
    assert last.frame is not None
    assert last.frame.end is not None
    assert last.frame.end.error is not None
    assert last.frame.end.error.code == "overloaded"
    assert last.frame.end.error.retry_after == pytest.approx(95, abs=2)


async def test_what_may_be_running_already_is_not_refused(ctx: Context) -> None:
    """A scheduler that died may have granted it: to end it would cut off its answer."""
    runner, now = a_request().model.runner, time.monotonic()
    ctx.throughput.started(runner, "done", now - 100)
    ctx.throughput.ended("done", now)
    ctx.throughput.started(runner, "running", now)
    dispatch.accept(ctx, Waiting(a_request(deadline=time.time() + 5), None, time.time(), unsure=True))
    dispatch.grant_all(ctx)
    assert len(ctx.waiting) == 1
