"""Use case: those that cannot start any more are ended, the others grow older."""

import asyncio
import time
from collections.abc import Iterator
from itertools import islice

from prometheus_client import Gauge

from libs.common.errors import DeadlineExceeded, Unavailable
from services.scheduler import dispatch, placement
from services.scheduler.context import Context
from services.scheduler.waiting import Waiting

SWEEP_SECONDS = 0.5

MOST_JUDGED = 50
"""Of those that ask for much context, in one go."""

_waiting = Gauge("scheduler_requests_waiting", "Requests that have no worker yet")


async def sweep(ctx: Context) -> None:
    """Background loop."""
    unable_since: dict[str, float] = {}
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = time.time()
        for waiting in ctx.waiting.take_expired(now):
            dispatch.refuse(ctx, waiting, DeadlineExceeded())
        for waiting in in_vain(ctx, unable_since, now):
            ctx.waiting.remove(waiting.request.request_id)
            dispatch.refuse(ctx, waiting, Unavailable("no worker can run this model at the moment; please try again"))
        ctx.waiting.age(now - ctx.settings.batch_ageing_seconds)
        if ctx.waiting:
            ctx.wake.set()  # for one of them another copy of its model may be worth a load by now
        _waiting.set(len(ctx.waiting))


def in_vain(ctx: Context, unable_since: dict[str, float], now: float) -> list[Waiting]:
    """Those that no worker could have run for too long; ``unable_since`` is kept from call to call, for each of them.

    Without a connection nobody knows which workers there are.
    """
    hopeless = list(_hopeless(ctx)) if ctx.link.steady(ctx.bus) else []
    since = {each.request.request_id: unable_since.get(each.request.request_id, now) for each in hopeless}
    unable_since.clear()
    unable_since.update(since)
    return [each for each in hopeless if now - since[each.request.request_id] > ctx.settings.no_worker_seconds]


def _hopeless(ctx: Context) -> Iterator[Waiting]:
    """Those whose model no worker could run now, or not with such a context."""
    for lane in ctx.waiting.lanes():
        if lane.big:
            judged = islice(ctx.waiting.of_lane(lane), MOST_JUDGED)
            yield from (each for each in judged if not placement.able(each.request, ctx.fleet))
        else:
            usual = next(ctx.waiting.of_lane(lane)).request.model_copy(update={"num_ctx": 0})
            if not placement.able(usual, ctx.fleet):
                yield from ctx.waiting.of_lane(lane)
