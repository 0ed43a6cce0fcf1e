"""How the installation is doing."""

from typing import Annotated

from fastapi import APIRouter, Query

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from libs.common.contracts.scheduler.queue import GetStats, SystemStats
from services.gateway.api.platform.caller import Ctx, needs

router = APIRouter(prefix="/system/stats", tags=["system"])


@router.get("")
async def stats(
    ctx: Ctx,
    _caller: Annotated[Identity, needs(Permission.CLUSTER_READ)],
    window_seconds: Annotated[float, Query(ge=10, le=3600, allow_inf_nan=False)] = 300,
) -> SystemStats:
    """Over all organizations: what ended within the window, and what runs and waits now."""
    return await ctx.bus.ask(GetStats(window_seconds=window_seconds))
