"""Invitations."""

from libs.common.bus.base import Handlers
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
from services.auth import invitations
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(ListInvitations)
async def list_invitations(query: ListInvitations, ctx: Context) -> Page[Invitation]:
    return await invitations.list_of(ctx, query)


@handlers.on(CreateInvitation)
async def create_invitation(query: CreateInvitation, ctx: Context) -> CreatedInvitation:
    return await invitations.create(ctx, query)


@handlers.on(WithdrawInvitation)
async def withdraw_invitation(query: WithdrawInvitation, ctx: Context) -> None:
    await invitations.withdraw(ctx, query)


@handlers.on(AcceptInvitation)
async def accept_invitation(query: AcceptInvitation, ctx: Context) -> Joined:
    return await invitations.accept(ctx, query.token)
