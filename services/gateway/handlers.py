"""The gateway's doors on the bus: what every replica must hear to keep its memory true, and the settings it keeps."""

import time

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.organizations import OrganizationDeleted
from libs.common.contracts.auth.privacy import UserErased
from libs.common.contracts.gateway import ConfigVersion, ExportUser, GetConfig, UserFiles
from libs.common.contracts.registry import ModelChanged, OperationReported
from libs.common.contracts.worker import WorkerHeartbeat
from services.gateway import system_config
from services.gateway.batches import batches
from services.gateway.context import Context

handlers = Handlers("gateway")


@handlers.on(IdentityChanged, every_replica=True)
async def identity_changed(event: IdentityChanged, ctx: Context) -> None:
    ctx.identities.forget(event)


@handlers.on(ModelChanged, every_replica=True)
async def model_changed(event: ModelChanged, ctx: Context) -> None:
    ctx.models.forget(event.name, event.organization_id)


@handlers.on(OperationReported, every_replica=True)
async def operation_reported(report: OperationReported, ctx: Context) -> None:
    ctx.operations.hear(report)


@handlers.on(WorkerHeartbeat, every_replica=True)
async def worker_heartbeat(heartbeat: WorkerHeartbeat, ctx: Context) -> None:
    ctx.cluster.hear(heartbeat, time.monotonic())


@handlers.on(GetConfig)
async def get_config(_query: GetConfig, ctx: Context) -> ConfigVersion:
    return await system_config.in_force(ctx.db)


@handlers.on(ExportUser)
async def export_user(query: ExportUser, ctx: Context) -> UserFiles:
    return await batches.export(ctx, query.user_id, query.organization_id)


@handlers.on(UserErased)
async def user_erased(event: UserErased, ctx: Context) -> None:
    await batches.forget_user(ctx, event.user_id)


@handlers.on(OrganizationDeleted)
async def organization_deleted(event: OrganizationDeleted, ctx: Context) -> None:
    await batches.forget_organization(ctx, event.organization_id)
