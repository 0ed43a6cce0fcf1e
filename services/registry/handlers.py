"""The registry's doors on the bus."""

from libs.common.bus.base import Handlers
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import (
    BlobLocation,
    CachePlan,
    DescribeModel,
    ListModels,
    ListReplicas,
    LocateBlob,
    ModelDescription,
    ModelSummary,
    Replica,
    ReplicateModel,
    ReportCache,
    ResolveModel,
)
from libs.common.contracts.worker import WorkerHeartbeat
from services.registry import catalog, replicas
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
    return await replicas.locate(ctx, query.digest, query.node)


@handlers.on(ReportCache)
async def report_cache(report: ReportCache, ctx: Context) -> CachePlan:
    return await replicas.take_report(ctx, report)


@handlers.on(ReplicateModel)
async def replicate_model(query: ReplicateModel, ctx: Context) -> tuple[Replica, ...]:
    return await replicas.replicate(ctx, query.model, query.count)


@handlers.on(ListReplicas)
async def list_replicas(query: ListReplicas, ctx: Context) -> tuple[Replica, ...]:
    return await replicas.list_replicas(ctx, query.model)


@handlers.on(WorkerHeartbeat, every_replica=True)
async def worker_heartbeat(event: WorkerHeartbeat, ctx: Context) -> None:
    ctx.virtual_models.hear(event)
