"""A request on its way: asked for, granted, given back, ended, cancelled; and the workers it runs on."""

import time

from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.worker import InferenceFinished, RunInference, WorkerHeartbeat
from libs.common.telemetry import current_traceparent
from services.scheduler import dispatch, failover
from services.scheduler.context import Context
from services.scheduler.waiting import Waiting

handlers = Handlers("scheduler")

# Waiting requests are held unacknowledged; beyond the waiting set's bound they are taken only to be refused. It is well
# above the most that the settings allow, with the quarter for idle ones: else the broker would deliver nothing more.
MOST_HELD = 65_000


@handlers.on(RequestInference, ack=Ack.MANUAL, single_active=True, prefetch=MOST_HELD)
async def request_inference(request: RequestInference, ctx: Context, delivery: Delivery) -> None:
    if request.handed_back:
        await failover.handed_back(ctx, request, delivery)
        return
    dispatch.accept(ctx, Waiting(request, delivery, time.time(), current_traceparent(), unsure=delivery.redelivered))


@handlers.on(RunInference, ack=Ack.MANUAL)
async def lease_returned(run: RunInference, ctx: Context, delivery: Delivery) -> None:
    await failover.lease_returned(ctx, run, delivery)


@handlers.on(WorkerHeartbeat, every_replica=True)
async def worker_heartbeat(heartbeat: WorkerHeartbeat, ctx: Context) -> None:
    if ctx.fleet.hear(heartbeat, time.monotonic()):
        ctx.wake.set()
    for entry in heartbeat.running:
        ctx.meters.progress(entry.request_id, entry.prompt_tokens, entry.completion_tokens)


@handlers.on(InferenceFinished, every_replica=True)
async def slot_freed(event: InferenceFinished, ctx: Context) -> None:
    if ctx.breaker.hear(event):
        dispatch.give_up_model(ctx, event.runner)
    ctx.meters.end(event)
    ctx.throughput.ended(event.request_id, time.monotonic())
    dispatch.forget(ctx, event.request_id)
    if ctx.fleet.release(event.worker_id, event.request_id):
        ctx.wake.set()


@handlers.on(InferenceFinished, ack=Ack.MANUAL, prefetch=2000)
async def journal(event: InferenceFinished, ctx: Context, delivery: Delivery) -> None:
    ctx.journal.add(event, delivery)


@handlers.on(InferenceCancelled, every_replica=True)
async def inference_cancelled(event: InferenceCancelled, ctx: Context) -> None:
    ctx.cancelled[event.request_id] = None
    if (waiting := ctx.waiting.remove(event.request_id)) is not None:
        dispatch.drop(ctx, waiting)
