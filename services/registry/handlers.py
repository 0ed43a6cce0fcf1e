"""The registry's doors on the bus."""

from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.contracts.gateway import OperationCancelled
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import (
    BlobLocation,
    CachePlan,
    CopyModel,
    CreateModel,
    DeleteModel,
    DescribeModel,
    ListModels,
    ListReplicas,
    ListVersions,
    LocateBlob,
    ModelDescription,
    ModelSummary,
    ModelVersion,
    PullModel,
    PushModel,
    Replica,
    ReplicateModel,
    ReportCache,
    ResolveModel,
    RollBack,
)
from libs.common.contracts.worker import WorkerHeartbeat
from services.registry import catalog, create, pull, push, replicas, versions
from services.registry.context import Context
from services.registry.operations import PREFETCH

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


@handlers.on(CopyModel)
async def copy_model(query: CopyModel, ctx: Context) -> None:
    await catalog.copy(ctx, query.source, query.destination)


@handlers.on(DeleteModel)
async def delete_model(query: DeleteModel, ctx: Context) -> None:
    await catalog.delete(ctx, query.name)


@handlers.on(ListVersions)
async def list_versions(query: ListVersions, ctx: Context) -> tuple[ModelVersion, ...]:
    return await versions.list_versions(ctx, query.name)


@handlers.on(RollBack)
async def roll_back(query: RollBack, ctx: Context) -> ModelVersion:
    return await versions.roll_back(ctx, query.name, query.digest)


@handlers.on(PullModel, ack=Ack.MANUAL, prefetch=PREFETCH)
async def pull_model(command: PullModel, ctx: Context, delivery: Delivery) -> None:
    await ctx.operations.accept(
        command, delivery, lambda report: pull.pull(ctx, command.name, insecure=command.insecure, report=report)
    )


@handlers.on(PushModel, ack=Ack.MANUAL, prefetch=PREFETCH)
async def push_model(command: PushModel, ctx: Context, delivery: Delivery) -> None:
    await ctx.operations.accept(
        command, delivery, lambda report: push.push(ctx, command.name, insecure=command.insecure, report=report)
    )


@handlers.on(CreateModel, ack=Ack.MANUAL, prefetch=PREFETCH)
async def create_model(command: CreateModel, ctx: Context, delivery: Delivery) -> None:
    await ctx.operations.accept(command, delivery, lambda report: create.create(ctx, command, report))


@handlers.on(OperationCancelled, every_replica=True)
async def operation_cancelled(event: OperationCancelled, ctx: Context) -> None:
    ctx.operations.cancel(event.operation_id)


@handlers.on(WorkerHeartbeat, every_replica=True)
async def worker_heartbeat(event: WorkerHeartbeat, ctx: Context) -> None:
    ctx.virtual_models.hear(event)
