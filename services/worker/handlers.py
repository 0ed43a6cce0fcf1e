"""The worker's doors on the bus."""

from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.contracts.gateway import HeartbeatRequested, InferenceCancelled, ModelUnloadRequested
from libs.common.contracts.registry import ModelChanged, ReplicasRequested
from libs.common.contracts.scheduler.inference import InferencePreempted
from libs.common.contracts.worker import KeepAliveChanged, RunInference
from services.worker import heartbeat, inference
from services.worker.context import Context

handlers = Handlers("worker")

# The scheduler grants only free slots; this bounds what a mistake of its could pile up here.
MOST_RUNNING = 4096


@handlers.on(RunInference, ack=Ack.MANUAL, prefetch=MOST_RUNNING)
async def run_inference(run: RunInference, ctx: Context, delivery: Delivery) -> None:
    await inference.take(ctx, run, delivery)


@handlers.on(InferenceCancelled, every_replica=True)
async def inference_cancelled(event: InferenceCancelled, ctx: Context) -> None:
    inference.cancel(ctx, event.request_id)


@handlers.on(InferencePreempted, every_replica=True)
async def inference_preempted(event: InferencePreempted, ctx: Context) -> None:
    inference.preempt(ctx, event.request_id, event.epoch)


@handlers.on(ModelUnloadRequested, every_replica=True)
async def unload(event: ModelUnloadRequested, ctx: Context) -> None:
    ctx.models.keep(event.runner, 0)
    heartbeat.answer(ctx, event.mark)


@handlers.on(KeepAliveChanged, every_replica=True)
async def keep_alive_changed(event: KeepAliveChanged, ctx: Context) -> None:
    if event.worker_id != ctx.instance:
        ctx.models.keep(event.runner, event.seconds)


@handlers.on(HeartbeatRequested, every_replica=True)
async def heartbeat_requested(event: HeartbeatRequested, ctx: Context) -> None:
    heartbeat.answer(ctx, event.mark)


@handlers.on(ModelChanged, every_replica=True)
async def model_changed(_event: ModelChanged, ctx: Context) -> None:
    ctx.blobs.changed.set()  # it may be a blob less that we need


@handlers.on(ReplicasRequested, every_replica=True)
async def replicas_requested(event: ReplicasRequested, ctx: Context) -> None:
    if ctx.settings.node in event.nodes:
        ctx.replicas.wake()
