"""Background loop: tell everybody what this worker has, holds and runs, every second and at once when it changes."""

import asyncio
import time
from typing import Literal

import structlog

from libs.common.contracts.inference import RunningRequest
from libs.common.contracts.worker import WorkerHeartbeat
from libs.common.errors import Unavailable
from services.worker.context import Context

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 1.0
CLOSEST_SECONDS = 0.05

State = Literal["active", "draining", "offline"]


def _state(ctx: Context) -> State:
    if ctx.gone.is_set():
        return "offline"
    return "draining" if ctx.draining.is_set() else "active"


def compose(ctx: Context) -> WorkerHeartbeat:
    settings = ctx.settings
    return WorkerHeartbeat(
        worker_id=ctx.instance,
        node=settings.node,
        state=_state(ctx),
        engines=ctx.engines.names,
        slots=max(settings.slots, settings.slots_per_model),
        slots_per_model=settings.slots_per_model,
        max_loaded_models=settings.max_loaded_models,
        max_context_length=settings.longest_context,
        loaded=ctx.models.snapshot(),
        running=tuple(
            RunningRequest(request_id=request_id, epoch=running.epoch, runner=running.runner)
            for request_id, running in ctx.running.items()
            if running.stage != "ending"
        ),
        virtual_models=ctx.engines.virtual_models,
        marks=tuple(ctx.marks),
        sent_at=time.time(),
    )


async def beat(ctx: Context) -> None:
    while True:
        await announce(ctx)
        await asyncio.sleep(CLOSEST_SECONDS)
        try:
            await asyncio.wait_for(ctx.changed.wait(), timeout=HEARTBEAT_SECONDS - CLOSEST_SECONDS)
        except TimeoutError:
            continue
        ctx.changed.clear()


def answer(ctx: Context, mark: str) -> None:
    """Somebody waits for a heartbeat with this mark."""
    ctx.marks.append(mark)
    ctx.changed.set()


async def announce(ctx: Context) -> None:
    heartbeat = compose(ctx)
    ctx.marks.clear()
    try:
        await ctx.bus.publish(heartbeat)
    except Unavailable as error:
        log.warning("no heartbeat", error=str(error))
