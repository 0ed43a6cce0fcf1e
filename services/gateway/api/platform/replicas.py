"""On which nodes a model is. ``{model}``: its name, or its digest."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from libs.common.contracts.registry import ListReplicas, Replica, ReplicateModel
from services.gateway.api.platform.caller import Caller, Ctx
from services.gateway.permissions import Permission, check

router = APIRouter(prefix="/models")


class Wanted(BaseModel):
    nodes: int = Field(ge=1, le=10_000, description="how many nodes should have it")


class Replicas(BaseModel):
    replicas: tuple[Replica, ...]


@router.post("/{model:path}/replicate", status_code=202)
async def replicate(model: str, body: Wanted, ctx: Ctx, caller: Caller) -> Replicas:
    check(caller, Permission.MODEL_MANAGE)
    return Replicas(replicas=await ctx.bus.ask(ReplicateModel(model=model, count=body.nodes)))


@router.get("/{model:path}/replicas")
async def replicas(model: str, ctx: Ctx, caller: Caller) -> Replicas:
    check(caller, Permission.MODEL_READ)
    return Replicas(replicas=await ctx.bus.ask(ListReplicas(model=model)))
