"""A caller's own API keys."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from libs.common.contracts.auth import ApiKey, CreatedApiKey, CreateKey, ListKeys, RevokeKey
from services.gateway.api.platform.caller import Caller, Ctx
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/keys")


class NewKey(BaseModel):
    name: str = Field(min_length=1, max_length=200, pattern=NO_NUL)
    expires_at: float | None = Field(None, allow_inf_nan=False, description="seconds since the epoch; never if absent")


class Keys(BaseModel):
    keys: tuple[ApiKey, ...]


@router.post("", status_code=201)
async def create(body: NewKey, ctx: Ctx, caller: Caller) -> CreatedApiKey:
    return await ctx.bus.ask(CreateKey(user_id=caller.user_id, name=body.name, expires_at=body.expires_at))


@router.get("")
async def mine(ctx: Ctx, caller: Caller) -> Keys:
    return Keys(keys=await ctx.bus.ask(ListKeys(user_id=caller.user_id)))


@router.delete("/{key_id}", status_code=204)
async def revoke(key_id: UUID, ctx: Ctx, caller: Caller) -> None:
    await ctx.bus.ask(RevokeKey(user_id=caller.user_id, key_id=str(key_id)))
