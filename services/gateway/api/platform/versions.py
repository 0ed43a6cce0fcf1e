"""Earlier versions of a model, and back to one."""

from typing import Annotated

from fastapi import APIRouter, Path

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.contracts.registry import ListVersions, ModelVersion, RollBack
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.model_names import ModelName, checked

router = APIRouter(prefix="/models", tags=["models"])

Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


@router.get("/{model:path}/versions")
async def versions(
    model: ModelName, ctx: Ctx, caller: Annotated[Identity, needs(Permission.MODEL_READ)]
) -> Page[ModelVersion]:
    """What the name points to, then what it pointed to before, newest first. All on one page."""
    return Page(items=await ctx.bus.ask(ListVersions(name=checked(caller, model))))


@router.post("/{model:path}/versions/{digest}/restore")
async def restore(
    model: ModelName, digest: Digest, ctx: Ctx, caller: Annotated[Identity, needs(Permission.MODEL_MANAGE)]
) -> ModelVersion:
    """What the model points to now becomes an earlier version in its turn."""
    return await ctx.bus.ask(RollBack(name=checked(caller, model), digest=digest))
