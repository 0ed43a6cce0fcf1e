"""Every request's end is told exactly as its log has it, also when no worker is left to tell it."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from libs.common.bus.base import Bus, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.scheduler.inference import AttemptRecord, RequestInference
from libs.common.contracts.tokens import Frame, StreamEnd, Usage, encode_frame
from libs.common.contracts.worker import InferenceFinished, RunInference
from libs.common.errors import Overloaded, RequestCancelled
from libs.common.token_log.store import Append, task_key
from services.scheduler import endings, failover
from services.scheduler.context import Context
from services.scheduler.waiting import Waiting
from tests.fixtures.batches import ADelivery
from tests.fixtures.batches import written as all_written
from tests.fixtures.builders import a_request, an_end
from tests.fixtures.buses import eventually

Told = asyncio.Queue[InferenceFinished]


@pytest.fixture
async def told(broker: MemoryBroker) -> AsyncIterator[Told]:
    heard: Told = asyncio.Queue()
    listening = Handlers("auth")

    @listening.on(InferenceFinished)
    async def hear(event: InferenceFinished, _context: object) -> None:
        heard.put_nowait(event)

    async with MemoryBus.open(broker, "auth", "a1") as bus:
        await bus.subscribe(listening, None)
        yield heard


async def written(ctx: Context, request: RequestInference, *, end: StreamEnd | None, words: int = 3) -> None:
    """By a worker, in its first attempt."""
    frames = [Frame(request.request_id, 1, 1, "w", token_ids=list(range(words)))]
    if end is not None:
        frames.append(Frame(request.request_id, 1, 2, end=end))
    append = Append(request.request_id, 1, 1, end is not None, [encode_frame(frame) for frame in frames])
    await ctx.token_log.append(request.channel, [append])


def a_grant(request: RequestInference) -> RunInference:
    attempt = AttemptRecord(epoch=1, worker_id="w", granted_at=7.0)
    return RunInference(request=request.model_copy(update={"attempts": (attempt,)}), epoch=1, granted_at=7.0)


async def test_a_refused_request_is_told_of_before_it_is_let_go(ctx: Context, told: Told) -> None:
    request, delivery = a_request(), ADelivery()
    await endings.end(ctx, Waiting(request, delivery, 0.0), Overloaded())
    event = await asyncio.wait_for(told.get(), 10)
    assert (event.outcome, event.error_code, event.granted_at) == ("failed", "overloaded", 0.0)
    assert (event.prompt_tokens, event.completion_tokens) == (0, 0)
    assert delivery.answer == "ack"


async def test_what_earlier_attempts_made_is_counted(ctx: Context, told: Told) -> None:
    request = a_request()
    await written(ctx, request, end=None)
    raised = await ctx.token_log.raise_epoch(request.request_id, 2)
    waiting = Waiting(request, None, 0.0, epoch=raised.last_epoch, last_seq=raised.last_seq)
    await endings.end(ctx, waiting, RequestCancelled())
    event = await asyncio.wait_for(told.get(), 10)
    assert (event.outcome, event.completion_tokens) == ("cancelled", 3)


async def test_a_cancel_that_comes_too_late_changes_nothing(ctx: Context, told: Told) -> None:
    """The request was granted by a scheduler that died; it comes again, and its end is in the log already."""
    request, delivery = a_request(), ADelivery()
    await written(ctx, request, end=StreamEnd(usage=Usage(5, 3)))
    await endings.end(ctx, Waiting(request, delivery, 0.0, unsure=True), RequestCancelled())
    event = await asyncio.wait_for(told.get(), 10)
    assert (event.outcome, event.prompt_tokens, event.completion_tokens) == ("done", 5, 3)
    assert delivery.answer == "ack"


async def test_who_still_runs_it_is_fenced_by_a_cancel(ctx: Context, told: Told) -> None:
    request = a_request()
    await written(ctx, request, end=None)
    await endings.end(ctx, Waiting(request, None, 0.0, unsure=True), RequestCancelled())
    event = await asyncio.wait_for(told.get(), 10)
    assert (event.outcome, event.completion_tokens, event.epoch) == ("cancelled", 3, 2)


async def test_a_worker_that_died_before_it_told_the_end(ctx: Context, told: Told) -> None:
    run, delivery = a_grant(a_request()), ADelivery()
    await written(ctx, run.request, end=StreamEnd(usage=Usage(5, 3)))
    await failover.lease_returned(ctx, run, delivery)
    event = await asyncio.wait_for(told.get(), 10)
    assert (event.outcome, event.prompt_tokens, event.completion_tokens) == ("done", 5, 3)
    assert event.granted_at == 7.0
    assert delivery.answer == "ack"


async def test_an_end_is_told_also_when_redis_has_lost_what_was_before(ctx: Context, told: Told) -> None:
    request, delivery = a_request(), ADelivery()
    await endings.end(ctx, Waiting(request, delivery, 0.0, epoch=2, last_seq=7), RequestCancelled())
    event = await asyncio.wait_for(told.get(), 10)
    assert (event.outcome, event.epoch) == ("cancelled", 2)
    assert delivery.answer == "ack"


async def test_an_end_is_told_also_when_a_fenced_worker_has_written_into_a_lost_log(ctx: Context, told: Told) -> None:
    request = a_request()
    await written(ctx, request, end=None)
    await endings.end(ctx, Waiting(request, None, 0.0, epoch=2), RequestCancelled())
    event = await asyncio.wait_for(told.get(), 10)
    assert (event.outcome, event.epoch) == ("cancelled", 2)


async def test_a_long_prompt_goes_with_its_request(ctx: Context) -> None:
    request = a_request().model_copy(update={"task_json": None})
    await ctx.redis.set(task_key(request.request_id), "a long prompt")
    await endings.end(ctx, Waiting(request, None, 0.0), Overloaded())
    assert not await ctx.redis.exists(task_key(request.request_id))


async def test_a_lease_that_returns_after_the_log_is_gone_starts_nothing(ctx: Context) -> None:
    request, delivery = a_request(accepted_at=time.time() - 60), ADelivery()
    await all_written(ctx.journal, [an_end(request_id=request.request_id)])
    await failover.lease_returned(ctx, a_grant(request), delivery)
    assert (delivery.answer, len(ctx.waiting)) == ("ack", 0)
    assert not await ctx.token_log.exists(request.request_id)


async def test_an_end_that_is_told_after_the_lease_has_returned_starts_nothing(ctx: Context, bus: Bus) -> None:
    request, delivery = a_request(), ADelivery()
    await failover.lease_returned(ctx, a_grant(request), delivery)
    assert len(ctx.waiting) == 1
    await bus.publish(an_end(request_id=request.request_id))
    await eventually(lambda: (delivery.answer, len(ctx.waiting)) == ("ack", 0))
