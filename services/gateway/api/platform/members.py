"""Members of an organization: your own, or another if you may manage tenants."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.members import AddMember, GetMember, ListMembers, Member, RemoveMember, UpdateMember
from libs.common.contracts.auth.roles import ROLE_NAME
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform import etag
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch
from services.gateway.api.platform.organizations import OrganizationInPath
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/organizations/{organization_id}/members", tags=["members"])

Reader = Annotated[Identity, needs(Permission.USER_READ)]
Manager = Annotated[Identity, needs(Permission.USER_MANAGE)]
RoleFilter = Annotated[str, Query(pattern=f"{ROLE_NAME}|^$", description="only members with this role")]


class RoleOfMember(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "operator"}]})

    role: str = Field(pattern=ROLE_NAME, description="one of the organization's roles")


class NewMember(RoleOfMember):
    model_config = ConfigDict(json_schema_extra={"examples": [{"email": "ada@example.com", "role": "user"}]})

    email: str = Field(max_length=320, pattern=NO_NUL)


@router.get("")
async def members(
    organization_id: OrganizationInPath, ctx: Ctx, _caller: Reader, paging: Paging, role: RoleFilter = ""
) -> Page[Member]:
    """Newest first."""
    return await ctx.bus.ask(ListMembers(organization_id=organization_id, role=role, paging=paging))


@router.post("", status_code=201)
async def add(
    organization_id: OrganizationInPath, body: NewMember, ctx: Ctx, response: Response, _caller: Manager
) -> Member:
    """Adds a user who has an account, without asking; that takes tenant:manage. All others invite.

    403 for a role that may do more than you, 404 for an unknown user, 409 for who is a member.
    """
    made = await ctx.bus.ask(AddMember(organization_id=organization_id, email=body.email, role=body.role))
    etag.tag(response, made.version)
    return made


@router.get("/{user_id}")
async def member(
    organization_id: OrganizationInPath, user_id: UUID, ctx: Ctx, response: Response, _caller: Reader
) -> Member:
    """404 for who is no member."""
    found = await ctx.bus.ask(GetMember(organization_id=organization_id, user_id=str(user_id)))
    etag.tag(response, found.version)
    return found


@router.put("/{user_id}")
async def replace(
    organization_id: OrganizationInPath,
    user_id: UUID,
    body: RoleOfMember,
    ctx: Ctx,
    *,
    response: Response,
    _caller: Manager,
    expected: IfMatch,
) -> Member:
    """Effective at once. 403 if the old or the new role may do more than you; 409 for the last admin."""
    changed = await ctx.bus.ask(
        UpdateMember(organization_id=organization_id, user_id=str(user_id), role=body.role, expected_version=expected)
    )
    etag.tag(response, changed.version)
    return changed


@router.delete("/{user_id}", status_code=204)
async def remove(
    organization_id: OrganizationInPath, user_id: UUID, ctx: Ctx, _caller: Manager, expected: IfMatch
) -> None:
    """With the keys and sessions they have here; an account that belongs to no organization then is deleted.

    403 for who may do more than you; 409 for the last admin.
    """
    await ctx.bus.ask(RemoveMember(organization_id=organization_id, user_id=str(user_id), expected_version=expected))
