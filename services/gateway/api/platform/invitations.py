"""Invitations: a token for one address, good once, to become a member. Send it however you like."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.invitations import (
    AcceptInvitation,
    CreatedInvitation,
    CreateInvitation,
    Invitation,
    Joined,
    ListInvitations,
    WithdrawInvitation,
)
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.members import NewMember
from services.gateway.api.platform.organizations import OrganizationInPath
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(tags=["invitations"])

Reader = Annotated[Identity, needs(Permission.USER_READ)]
Manager = Annotated[Identity, needs(Permission.USER_MANAGE)]
Invited = Annotated[Identity, needs(Permission.SELF_MANAGE)]


class Acceptance(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"token": "omi_..."}]})

    token: str = Field(min_length=1, max_length=200, pattern=NO_NUL, repr=False)


@router.get("/organizations/{organization_id}/invitations")
async def invitations(
    organization_id: OrganizationInPath, ctx: Ctx, _caller: Reader, paging: Paging
) -> Page[Invitation]:
    """The open ones, newest first."""
    return await ctx.bus.ask(ListInvitations(organization_id=organization_id, paging=paging))


@router.post("/organizations/{organization_id}/invitations", status_code=201)
async def invite(organization_id: OrganizationInPath, body: NewMember, ctx: Ctx, _caller: Manager) -> CreatedInvitation:
    """The answer has the token, which is not shown again. An earlier invitation of this address stops working.

    403 for a role that may do more than you; 409 for who is a member.
    """
    return await ctx.bus.ask(CreateInvitation(organization_id=organization_id, email=body.email, role=body.role))


@router.delete("/organizations/{organization_id}/invitations/{invitation_id}", status_code=204)
async def withdraw(organization_id: OrganizationInPath, invitation_id: UUID, ctx: Ctx, _caller: Manager) -> None:
    """403 for one to a role that may do more than you, 404 for one that was accepted or withdrawn."""
    await ctx.bus.ask(WithdrawInvitation(organization_id=organization_id, invitation_id=str(invitation_id)))


@router.post("/invitations/accept")
async def accept(body: Acceptance, ctx: Ctx, _caller: Invited) -> Joined:
    """For who has an account and is logged in; who has none registers with the token. Then log in, or refresh, to the
    organization.

    404 for a token that is unknown, used, expired, or for another address.
    """
    return await ctx.bus.ask(AcceptInvitation(token=body.token))
