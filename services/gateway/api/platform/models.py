"""Earlier versions of a model, and back to one. ``{model}``: its name."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from libs.common.contracts.registry import ListVersions, ModelVersion, RollBack
from services.gateway.api.platform.caller import Caller, Ctx
from services.gateway.permissions import Permission, check

router = APIRouter(prefix="/models")

Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


class Versions(BaseModel):
    versions: tuple[ModelVersion, ...]


@router.get("/{model:path}/versions")
async def versions(model: str, ctx: Ctx, caller: Caller) -> Versions:
    """The current one, then the newest."""
    check(caller, Permission.MODEL_READ)
    return Versions(versions=await ctx.bus.ask(ListVersions(name=model)))


@router.post("/{model:path}/versions/{digest}/restore")
async def restore(model: str, digest: Digest, ctx: Ctx, caller: Caller) -> ModelVersion:
    """What the model points to now becomes an earlier version in its turn."""
    check(caller, Permission.MODEL_MANAGE)
    return await ctx.bus.ask(RollBack(name=model, digest=digest))
