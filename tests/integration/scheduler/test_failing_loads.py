"""A model that keeps failing to load: who waits for it and who comes later is told so at once."""

import time
from functools import partial
from typing import Any

from libs.common.bus.base import Bus
from libs.common.contracts.scheduler.inference import AttemptRecord, RequestInference
from libs.common.contracts.tokens import StreamError
from libs.common.errors import ModelLoadFailed
from services.scheduler import dispatch
from services.scheduler.breaker import FIRST_PAUSE_SECONDS, OPENS_AFTER
from services.scheduler.context import Context
from services.scheduler.waiting import Waiting
from tests.fixtures.batches import ADelivery
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, a_request, an_end
from tests.fixtures.buses import eventually

BROKEN = a_model(name="broken")


def a_failure(number: int) -> dict[str, Any]:
    return {
        "runner": BROKEN.runner,
        "outcome": "failed",
        "error_code": ModelLoadFailed.code,
        "error_message": f"reason {number}",
        "granted_at": 10.0 * number,
        "finished_at": 10.0 * number + 1,
    }


def wait(ctx: Context, request: RequestInference) -> ADelivery:
    delivery = ADelivery()
    dispatch.accept(ctx, Waiting(request, delivery, time.time()))
    return delivery


async def error_of(ctx: Context, request: RequestInference) -> StreamError | None:
    last = await ctx.token_log.last(request.request_id)
    return last.frame.end.error if last and last.frame and last.frame.end else None


async def test_those_who_wait_and_those_who_come_are_refused_with_the_reason(ctx: Context, bus: Bus) -> None:
    waits, other, comes = a_request(model=BROKEN), a_request(), a_request(model=BROKEN)
    first = wait(ctx, waits)
    wait(ctx, other)
    for number in range(OPENS_AFTER):
        assert waits.request_id in ctx.waiting
        await ctx.bus.publish(an_end(worker_id=f"w{number}", **a_failure(number)))
        await eventually(partial(ctx.breaker.avoids, f"w{number}", BROKEN.runner))
    second = wait(ctx, comes)
    await eventually(lambda: first.answer == second.answer == "ack")
    for request in (waits, comes):
        error = await error_of(ctx, request)
        assert error is not None
        assert error.code == ModelLoadFailed.code
        assert error.message.endswith(f"reason {OPENS_AFTER - 1}")
        assert error.retry_after is not None
        assert 0 < error.retry_after <= FIRST_PAUSE_SECONDS
    assert other.request_id in ctx.waiting


async def test_nobody_is_refused_while_some_worker_has_the_model_in_memory(ctx: Context) -> None:
    ctx.fleet.hear(a_heartbeat(loaded=(a_loaded_model(BROKEN),)), time.monotonic())
    for number in range(OPENS_AFTER):
        attempt = AttemptRecord(
            epoch=1, worker_id=f"w{number}", granted_at=1.0, ended="load_failed", ended_at=2.0, message="disk full"
        )
        ctx.breaker.load_failed(BROKEN.runner, attempt)
    request = a_request(model=BROKEN)
    wait(ctx, request)
    assert request.request_id in ctx.waiting
