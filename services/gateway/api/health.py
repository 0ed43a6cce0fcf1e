"""The health of this gateway, on the public port too, for load balancers that see nothing else."""

from fastapi import APIRouter

from libs.common.web import health_router
from services.gateway.context import Context


def router(ctx: Context) -> APIRouter:
    def not_ready() -> str | None:
        if ctx.draining.is_set():
            return "draining"
        return None if ctx.bus.connected else "not connected to RabbitMQ"

    return health_router(ctx.db, not_ready)
