"""The registry's doors on the bus."""

from libs.common.bus.base import Handlers
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import (
    BlobLocation,
    DescribeModel,
    ListModels,
    LocateBlob,
    ModelDescription,
    ModelSummary,
    ResolveModel,
)
from libs.common.contracts.worker import WorkerHeartbeat
from services.registry import catalog
from services.registry.context import Context

handlers = Handlers("registry")


@handlers.on(ResolveModel)
async def resolve_model(query: ResolveModel, ctx: Context) -> ModelRef:
    return await catalog.resolve(ctx, query.name)


@handlers.on(ListModels)
async def list_models(_query: ListModels, ctx: Context) -> tuple[ModelSummary, ...]:
    return await catalog.list_models(ctx)


@handlers.on(DescribeModel)
async def describe_model(query: DescribeModel, ctx: Context) -> ModelDescription:
    return await catalog.describe(ctx, query.name, verbose=query.verbose)


@handlers.on(LocateBlob)
async def locate_blob(query: LocateBlob, ctx: Context) -> BlobLocation:
    return await catalog.locate(ctx, query.digest)


@handlers.on(WorkerHeartbeat, every_replica=True)
async def worker_heartbeat(event: WorkerHeartbeat, ctx: Context) -> None:
    ctx.virtual_models.hear(event)
