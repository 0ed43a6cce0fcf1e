"""Limits: how much a key, a member, the organization or its use of some models may take.

Whoever manages the organization sets what is below its own ceiling; the ceiling is set by who manages tenants.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity, Limits
from libs.common.contracts.auth.limits import DeleteLimits, GetLimits, ListLimits, PutLimits, Scope, SetLimits
from libs.common.contracts.auth.organizations import ORGANIZATION_ID
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.errors import NotFound
from libs.common.limits.store import State
from services.gateway.api.platform import etag
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch
from services.gateway.api.platform.organizations import OrganizationInPath
from services.gateway.api.platform.pages import Paging
from services.gateway.context import Context

router = APIRouter(prefix="/limits", tags=["limits"])

Manager = Annotated[Identity, needs(Permission.ORGANIZATION_MANAGE)]
TenantManager = Annotated[Identity, needs(Permission.TENANT_MANAGE)]

OtherOrganization = Annotated[
    str | None, Query(pattern=ORGANIZATION_ID, description="another than yours, if you manage tenants")
]
Below = Literal["key", "user", "model"]
Id = Annotated[
    str, Path(max_length=400, pattern="^[^\\x00]+$", description="of the key or user; the pattern of the models")
]


class NewLimits(Limits, Body):
    """Absent: without limit. A minute is any 60 seconds; days and months are UTC's."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"requests_per_minute": 60, "tokens_per_day": 1_000_000}]}
    )

    def plain(self) -> Limits:
        return Limits(**self.model_dump())


class Left(BaseModel):
    """One limit, as it stands. Whoever shares it takes from it too."""

    scope: Scope
    models: str = Field(description="pattern of the models it is about")
    unit: Literal["requests", "tokens", "streams"]
    limit: int
    period_seconds: int = Field(description="0: of what runs at once")
    left: int
    reset_seconds: float = Field(description="until something is given back")


class AllLeft(BaseModel):
    items: tuple[Left, ...]


@router.get("")
async def limits(
    ctx: Ctx, caller: Manager, paging: Paging, organization_id: OtherOrganization = None
) -> Page[SetLimits]:
    """All that are set in the organization, by scope and id."""
    return await ctx.bus.ask(ListLimits(organization_id=_organization(caller, organization_id), page=paging))


@router.get("/mine")
async def mine(ctx: Ctx, caller: Annotated[Identity, needs(Permission.SELF_READ)]) -> AllLeft:
    """What applies to you, and what is left of it now."""
    return AllLeft(items=tuple(_left(state) for state in await ctx.limits.left(caller)))


@router.get("/organization/{organization_id}")
async def of_organization(
    organization_id: OrganizationInPath, ctx: Ctx, response: Response, caller: Manager
) -> SetLimits:
    """The ceiling of an organization: your own, or any if you manage tenants. 404 if none is set."""
    organization = _organization(caller, organization_id)
    found = await ctx.bus.ask(GetLimits(organization_id=organization, scope="organization", id=organization))
    etag.tag(response, found.version)
    return found


@router.put("/organization/{organization_id}")
async def put_of_organization(
    organization_id: OrganizationInPath,
    body: NewLimits,
    *,
    ctx: Ctx,
    response: Response,
    _caller: TenantManager,
    expected: IfMatch,
) -> SetLimits:
    """Sets or replaces the ceiling of an organization."""
    put = PutLimits(
        organization_id=organization_id,
        scope="organization",
        id=organization_id,
        limits=body.plain(),
        expected_version=expected,
    )
    return await _put(ctx, response, put)


@router.delete("/organization/{organization_id}", status_code=204)
async def delete_of_organization(
    organization_id: OrganizationInPath, ctx: Ctx, _caller: TenantManager, expected: IfMatch
) -> None:
    """From then on the organization has no ceiling."""
    gone = DeleteLimits(
        organization_id=organization_id, scope="organization", id=organization_id, expected_version=expected
    )
    await ctx.bus.ask(gone)


@router.get("/{scope}/{identifier:path}")
async def of_one(
    scope: Below,
    identifier: Id,
    *,
    ctx: Ctx,
    response: Response,
    caller: Manager,
    organization_id: OtherOrganization = None,
) -> SetLimits:
    """404 if none are set."""
    organization = _organization(caller, organization_id)
    found = await ctx.bus.ask(GetLimits(organization_id=organization, scope=scope, id=identifier))
    etag.tag(response, found.version)
    return found


@router.put("/{scope}/{identifier:path}")
async def put_of_one(
    scope: Below,
    identifier: Id,
    body: NewLimits,
    *,
    ctx: Ctx,
    response: Response,
    caller: Manager,
    expected: IfMatch,
    organization_id: OtherOrganization = None,
) -> SetLimits:
    """Sets or replaces. 404 if the organization has no such key or member, 409 for too many patterns of models."""
    organization = _organization(caller, organization_id)
    put = PutLimits(
        organization_id=organization, scope=scope, id=identifier, limits=body.plain(), expected_version=expected
    )
    return await _put(ctx, response, put)


@router.delete("/{scope}/{identifier:path}", status_code=204)
async def delete_of_one(
    scope: Below,
    identifier: Id,
    *,
    ctx: Ctx,
    caller: Manager,
    expected: IfMatch,
    organization_id: OtherOrganization = None,
) -> None:
    """From then on without these limits. 404 if none are set."""
    organization = _organization(caller, organization_id)
    await ctx.bus.ask(DeleteLimits(organization_id=organization, scope=scope, id=identifier, expected_version=expected))


async def _put(ctx: Context, response: Response, put: PutLimits) -> SetLimits:
    made = await ctx.bus.ask(put)
    etag.tag(response, made.version)
    return made


def _organization(caller: Identity, asked: str | None) -> str:
    """Raises ``NotFound`` for another than the caller's, unless it manages tenants."""
    if asked not in (None, caller.organization_id) and Permission.TENANT_MANAGE not in caller.permissions:
        raise NotFound("organization not found")
    return asked or caller.organization_id


def _left(state: State) -> Left:
    check = state.check
    return Left(
        scope=check.applied.scope,
        models=check.applied.models,
        unit=check.unit,
        limit=check.limit,
        period_seconds=check.seconds,
        left=state.left,
        reset_seconds=state.reset_seconds,
    )
