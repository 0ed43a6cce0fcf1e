"""Background loop: tell everybody what this worker has, holds and runs, every second and at once when it changes."""

import asyncio
import os
import time
from typing import Literal

import structlog

from libs.common.contracts.inference import RunningRequest
from libs.common.contracts.worker import WorkerHeartbeat
from libs.common.errors import Unavailable
from services.worker.attempt import Attempt
from services.worker.context import Context

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 1.0
CLOSEST_SECONDS = 0.05

MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

State = Literal["active", "draining", "offline"]


def _state(ctx: Context) -> State:
    if ctx.gone.is_set():
        return "offline"
    return "draining" if ctx.draining.is_set() else "active"


def compose(ctx: Context) -> WorkerHeartbeat:
    settings, now = ctx.settings, time.time()
    return WorkerHeartbeat(
        worker_id=ctx.instance,
        node=settings.node,
        state=_state(ctx),
        engines=ctx.engines.names,
        slots=max(settings.slots, settings.slots_per_model),
        slots_per_model=settings.slots_per_model,
        max_loaded_models=settings.max_loaded_models,
        context_length=settings.context_length,
        max_context_length=settings.longest_context,
        cpus=os.cpu_count() or 0,
        memory_bytes=MEMORY_BYTES,
        memory_available_bytes=ctx.models.available_bytes(),
        region=settings.region,
        zone=settings.zone,
        loaded=ctx.models.snapshot(),
        running=tuple(_running(attempt, now) for attempt in ctx.running.values() if attempt.stage != "ending"),
        virtual_models=ctx.engines.virtual_models,
        marks=tuple(ctx.marks),
        sent_at=now,
    )


def _running(attempt: Attempt, now: float) -> RunningRequest:
    request, usage = attempt.request, attempt.usage_so_far()
    return RunningRequest(
        request_id=request.request_id,
        epoch=attempt.run.epoch,
        runner=request.model.runner,
        priority=request.priority,
        preemptible=attempt.preemptible(now),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
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
