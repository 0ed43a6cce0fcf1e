"""Who waits for a worker."""

from typing import Annotated

from fastapi import APIRouter

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from libs.common.contracts.scheduler.queue import GetQueue, QueueState
from services.gateway.api.platform.caller import Ctx, needs

router = APIRouter(prefix="/queue", tags=["inference"])


@router.get("")
async def queue(ctx: Ctx, caller: Annotated[Identity, needs(Permission.SELF_READ)]) -> QueueState:
    """How many wait in your organization, in each organization if you may read the cluster, and your own requests.

    A position is among those for the same model; the estimate is from what runs now and how long such requests took.
    """
    organization = None if Permission.CLUSTER_READ in caller.permissions else caller.organization_id
    return await ctx.bus.ask(GetQueue(organization_id=organization, user_id=caller.user_id))
