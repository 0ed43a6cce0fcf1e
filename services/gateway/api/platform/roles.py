"""Roles of an organization: admin, operator, user, readonly, and its own."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field, JsonValue
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.roles import (
    ROLE_NAME,
    CreateRole,
    DeleteRole,
    GetRole,
    ListRoles,
    ModelPatterns,
    Permissions,
    Role,
    UpdateRole,
)
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform import etag
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch
from services.gateway.api.platform.organizations import OrganizationInPath
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/organizations/{organization_id}/roles", tags=["roles"])

Reader = Annotated[Identity, needs(Permission.USER_READ)]
Manager = Annotated[Identity, needs(Permission.ORGANIZATION_MANAGE)]
RoleInPath = Annotated[str, Path(pattern=ROLE_NAME, examples=["support"])]
EXAMPLE: dict[str, JsonValue] = {
    "description": "answers tickets",
    "permissions": ["self:read", "self:manage", "model:read", "inference:run"],
    "models": ["llama3*"],
}


class Rights(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    description: str = Field("", max_length=1000, pattern=NO_NUL)
    permissions: Permissions
    models: ModelPatterns = Field((), description="patterns of the models it may know of; empty: all")


class NewRole(Rights):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "support", **EXAMPLE}]})

    name: str = Field(pattern=ROLE_NAME)


@router.get("")
async def roles(organization_id: OrganizationInPath, ctx: Ctx, _caller: Reader, paging: Paging) -> Page[Role]:
    """By name."""
    return await ctx.bus.ask(ListRoles(organization_id=organization_id, paging=paging))


@router.post("", status_code=201)
async def create(
    organization_id: OrganizationInPath, body: NewRole, ctx: Ctx, response: Response, _caller: Manager
) -> Role:
    """403 for permissions or models that you have not yourself, 409 if there is one of this name."""
    made = await ctx.bus.ask(CreateRole(organization_id=organization_id, **body.model_dump()))
    etag.tag(response, made.version)
    return made


@router.get("/{name}")
async def role(
    organization_id: OrganizationInPath, name: RoleInPath, ctx: Ctx, response: Response, _caller: Reader
) -> Role:
    """404 if there is no such one."""
    found = await ctx.bus.ask(GetRole(organization_id=organization_id, name=name))
    etag.tag(response, found.version)
    return found


@router.put("/{name}")
async def replace(
    organization_id: OrganizationInPath,
    name: RoleInPath,
    body: Rights,
    ctx: Ctx,
    *,
    response: Response,
    _caller: Manager,
    expected: IfMatch,
) -> Role:
    """Effective at once for all who have it. 409 for admin, operator, user and readonly, which are always the same."""
    changed = await ctx.bus.ask(
        UpdateRole(organization_id=organization_id, name=name, expected_version=expected, **body.model_dump())
    )
    etag.tag(response, changed.version)
    return changed


@router.delete("/{name}", status_code=204)
async def delete(
    organization_id: OrganizationInPath, name: RoleInPath, ctx: Ctx, _caller: Manager, expected: IfMatch
) -> None:
    """409 while members or open invitations have it."""
    await ctx.bus.ask(DeleteRole(organization_id=organization_id, name=name, expected_version=expected))
