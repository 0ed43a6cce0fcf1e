"""On which nodes a model is. ``{model}``: its name, or its digest."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.contracts.registry import ListReplicas, Replica, ReplicateModel
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.model_names import ModelName, checked_name_or_digest

router = APIRouter(prefix="/models", tags=["models"])

Reader = Annotated[Identity, needs(Permission.MODEL_READ)]
Manager = Annotated[Identity, needs(Permission.MODEL_MANAGE)]


class Wanted(Body):
    nodes: int = Field(ge=1, le=10_000, description="how many nodes should have it", examples=[2])


@router.post("/{model:path}/replicate", status_code=202)
async def replicate(model: ModelName, body: Wanted, ctx: Ctx, caller: Manager) -> Page[Replica]:
    """403 for a model that another organization shares. Nodes are named to who may read nodes."""
    query = ReplicateModel(model=checked_name_or_digest(caller, model), count=body.nodes)
    return _told(caller, await ctx.bus.ask(query))


@router.get("/{model:path}/replicas")
async def replicas(model: ModelName, ctx: Ctx, caller: Reader) -> Page[Replica]:
    """In which state. Nodes are named to who may read nodes."""
    return _told(caller, await ctx.bus.ask(ListReplicas(model=checked_name_or_digest(caller, model))))


def _told(caller: Identity, replicas: tuple[Replica, ...]) -> Page[Replica]:
    """Nodes are the installation's; an error may name one, too."""
    if Permission.NODE_READ in caller.permissions:
        return Page(items=replicas)
    return Page(items=tuple(replica.model_copy(update={"node": "", "error": ""}) for replica in replicas))
