"""API keys: for programs. One works in the organization it was made in."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field, JsonValue
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity, Limits, Weight
from libs.common.contracts.auth.keys import (
    ApiKey,
    CreatedApiKey,
    CreateKey,
    GetKey,
    ListKeys,
    RevokeKey,
    UpdateKey,
)
from libs.common.contracts.auth.roles import ModelPatterns, Permissions
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform import etag
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/keys", tags=["keys"])

Reader = Annotated[Identity, needs(Permission.SELF_READ)]
Owner = Annotated[Identity, needs(Permission.SELF_MANAGE)]
EXAMPLE: dict[str, JsonValue] = {
    "name": "laptop",
    "scopes": ["model:read", "inference:run"],
    "models": ["llama3*"],
    "limits": {"requests_per_minute": 60},
}


class KeyLimits(Limits, Body):
    """Of the key, beside those of its owner and organization. Absent: without limit."""


class NewKey(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    name: str = Field(min_length=1, max_length=100, pattern=NO_NUL)
    scopes: Permissions | None = Field(None, description="permissions it may use, of those its owner has; null: all")
    models: ModelPatterns = Field((), description="patterns of the models it may know of; empty: all of its owner's")
    limits: KeyLimits | None = None
    expires_at: float | None = Field(None, allow_inf_nan=False, description="seconds since the epoch; null: never")
    weight: Weight | None = Field(
        None, description="share where keys compete; null: 1, or as it is; only for who manages the organization"
    )


@router.post("", status_code=201)
async def create(body: NewKey, ctx: Ctx, response: Response, _caller: Owner) -> CreatedApiKey:
    """The answer has the key, which is not shown again.

    With a key you can make only keys that may do no more than it. 403 for more than you may, 409 for too many.
    """
    made = await ctx.bus.ask(CreateKey(**body.model_dump()))
    etag.tag(response, made.version)
    return made


@router.get("")
async def keys(
    ctx: Ctx,
    caller: Reader,
    paging: Paging,
    user_id: UUID | None = None,
    everybody: Annotated[bool, Query(description="all of the organization, whatever user_id says")] = False,
) -> Page[ApiKey]:
    """Your own, newest first; those of others if you may read users."""
    owner = None if everybody else str(user_id or caller.user_id)
    return await ctx.bus.ask(ListKeys(user_id=owner, paging=paging))


@router.get("/{key_id}")
async def key(key_id: UUID, ctx: Ctx, response: Response, _caller: Reader) -> ApiKey:
    """404 for a revoked one, and for others' unless you may read users."""
    found = await ctx.bus.ask(GetKey(key_id=str(key_id)))
    etag.tag(response, found.version)
    return found


@router.put("/{key_id}")
async def replace(
    key_id: UUID, body: NewKey, ctx: Ctx, response: Response, _caller: Owner, expected: IfMatch
) -> ApiKey:
    """Effective at once. Errors as for making one, and 404 for others' unless you may manage users.

    Limits stay or get tighter, unless you manage the organization.
    """
    changed = await ctx.bus.ask(UpdateKey(key_id=str(key_id), expected_version=expected, **body.model_dump()))
    etag.tag(response, changed.version)
    return changed


@router.delete("/{key_id}", status_code=204)
async def revoke(key_id: UUID, ctx: Ctx, _caller: Owner, expected: IfMatch) -> None:
    """Works nowhere within a second, and never again."""
    await ctx.bus.ask(RevokeKey(key_id=str(key_id), expected_version=expected))
