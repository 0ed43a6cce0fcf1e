"""The registry's doors on the bus."""

from functools import partial

from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.contracts.auth.organizations import OrganizationDeleted
from libs.common.contracts.auth.privacy import UserErased
from libs.common.contracts.exports import ExportedRows
from libs.common.contracts.gateway import OperationCancelled
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.paging import Page
from libs.common.contracts.registry import (
    BlobLocation,
    CachePlan,
    CopyModel,
    CreateModel,
    DeleteModel,
    DescribeModel,
    ExportUser,
    ListModels,
    ListReplicas,
    ListVersions,
    LocateBlob,
    ModelDescription,
    ModelSummary,
    ModelVersion,
    NamesOfDigest,
    PullModel,
    PushModel,
    Replica,
    ReplicateModel,
    ReportCache,
    ResolveModel,
    RollBack,
)
from libs.common.contracts.registry.models import AddModel, ChangeModel, FindModels, GetModel, Model
from libs.common.contracts.worker import WorkerHeartbeat
from services.registry import (
    additions,
    catalog,
    create,
    privacy,
    pull,
    push,
    records,
    removal,
    replicas,
    versions,
)
from services.registry.context import Context
from services.registry.operations import PREFETCH

handlers = Handlers("registry")


@handlers.on(ResolveModel)
async def resolve_model(query: ResolveModel, ctx: Context) -> ModelRef:
    return await catalog.resolve(ctx, query.name)


@handlers.on(ListModels)
async def list_models(_query: ListModels, ctx: Context) -> tuple[ModelSummary, ...]:
    return await catalog.list_models(ctx)


@handlers.on(FindModels)
async def find_models(query: FindModels, ctx: Context) -> Page[Model]:
    return await records.find(ctx, query)


@handlers.on(GetModel)
async def get_model(query: GetModel, ctx: Context) -> Model:
    return await records.get(ctx, query.name)


@handlers.on(AddModel)
async def add_model(query: AddModel, ctx: Context) -> Model:
    await additions.begin(ctx, query)
    return await records.get(ctx, query.name)


@handlers.on(ChangeModel)
async def change_model(query: ChangeModel, ctx: Context) -> Model:
    return await records.change(ctx, query)


@handlers.on(NamesOfDigest)
async def names_of_digest(query: NamesOfDigest, ctx: Context) -> tuple[str, ...]:
    return await records.names_of_digest(ctx, query.digest)


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
    await removal.delete(ctx, query.name, on_its_way=query.on_its_way)


@handlers.on(OrganizationDeleted)
async def organization_deleted(event: OrganizationDeleted, ctx: Context) -> None:
    await removal.delete_all(ctx, event.organization_id)


@handlers.on(ListVersions)
async def list_versions(query: ListVersions, ctx: Context) -> tuple[ModelVersion, ...]:
    return await versions.list_versions(ctx, query.name)


@handlers.on(RollBack)
async def roll_back(query: RollBack, ctx: Context) -> ModelVersion:
    return await versions.roll_back(ctx, query.name, query.digest)


@handlers.on(PullModel, ack=Ack.MANUAL, prefetch=PREFETCH)
async def pull_model(command: PullModel, ctx: Context, delivery: Delivery) -> None:
    await ctx.operations.accept(
        command,
        delivery,
        lambda report: pull.pull(ctx, command.name, insecure=command.insecure, report=report),
        partial(additions.ended, ctx, command.operation_id),
    )


@handlers.on(PushModel, ack=Ack.MANUAL, prefetch=PREFETCH)
async def push_model(command: PushModel, ctx: Context, delivery: Delivery) -> None:
    await ctx.operations.accept(
        command, delivery, lambda report: push.push(ctx, command.name, insecure=command.insecure, report=report)
    )


@handlers.on(CreateModel, ack=Ack.MANUAL, prefetch=PREFETCH)
async def create_model(command: CreateModel, ctx: Context, delivery: Delivery) -> None:
    work = partial(create.create, ctx, command)
    await ctx.operations.accept(command, delivery, work, partial(additions.ended, ctx, command.operation_id))


@handlers.on(OperationCancelled, every_replica=True)
async def operation_cancelled(event: OperationCancelled, ctx: Context) -> None:
    ctx.operations.cancel(event.operation_id)


@handlers.on(WorkerHeartbeat, every_replica=True)
async def worker_heartbeat(event: WorkerHeartbeat, ctx: Context) -> None:
    ctx.virtual_models.hear(event)


@handlers.on(ExportUser)
async def export_user(query: ExportUser, ctx: Context) -> ExportedRows:
    return await privacy.export(ctx, query.user_id, query.organization_id)


@handlers.on(UserErased)
async def user_erased(event: UserErased, ctx: Context) -> None:
    await privacy.forget(ctx, event.user_id)
