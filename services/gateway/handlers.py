"""The gateway's doors on the bus: what every replica must hear to keep its memory true."""

import time

from libs.common.bus.base import Handlers
from libs.common.contracts.auth import KeyRevoked
from libs.common.contracts.registry import ModelChanged, OperationReported
from libs.common.contracts.worker import WorkerHeartbeat
from services.gateway.context import Context

handlers = Handlers("gateway")


@handlers.on(KeyRevoked, every_replica=True)
async def key_revoked(event: KeyRevoked, ctx: Context) -> None:
    ctx.identities.forget(event.digest)


@handlers.on(ModelChanged, every_replica=True)
async def model_changed(event: ModelChanged, ctx: Context) -> None:
    ctx.models.forget(event.name)


@handlers.on(OperationReported, every_replica=True)
async def operation_reported(report: OperationReported, ctx: Context) -> None:
    ctx.operations.hear(report)


@handlers.on(WorkerHeartbeat, every_replica=True)
async def worker_heartbeat(heartbeat: WorkerHeartbeat, ctx: Context) -> None:
    ctx.cluster.hear(heartbeat, time.monotonic())
