"""Invitations: a token for one address, once, to become a member."""

import hashlib
import secrets
from dataclasses import dataclass
from uuid import UUID

from libs.common import actor, paging
from libs.common.contracts.auth import invitations as contracts
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Conflict, Forbidden, NotFound
from services.auth import addresses, callers, members, organizations, rights
from services.auth.context import Context
from services.auth.store import invitations as invitation_store
from services.auth.store import members as member_store
from services.auth.store.invitations import Invitation

TOKEN_PREFIX = "omi_"  # noqa: S105  how one begins
MOST_OPEN = 1000
"""Of one organization."""


@dataclass(frozen=True)
class Redeemed:
    """What the invitation is to."""

    organization_id: str
    role: str


async def list_of(ctx: Context, query: contracts.ListInvitations) -> Page[contracts.Invitation]:
    await rights.reach(ctx, query.organization_id)
    after = paging.decode_newest(query.paging.cursor, UUID)
    async with ctx.db.transaction(query.organization_id) as tx:
        rows = await invitation_store.list_invitations(tx, query.organization_id, after, query.paging.limit + 1)
    return paging.page(rows, query.paging, _shown, lambda row: (row.created_at.timestamp(), str(row.id)))


async def create(ctx: Context, query: contracts.CreateInvitation) -> contracts.CreatedInvitation:
    """Raises ``InvalidRequest``, ``Forbidden`` and ``Conflict``."""
    organization, caller = query.organization_id, await rights.reach(ctx, query.organization_id)
    address, token = addresses.checked(query.email), TOKEN_PREFIX + secrets.token_urlsafe(32)
    async with ctx.db.transaction(organization) as tx:
        caller = await rights.lock_for(tx, caller, organization, Permission.USER_MANAGE)
        rights.demand_holds(caller, organization, await rights.role_of_name(tx, organization, query.role))
        if await member_store.is_member(tx, organization, address):
            raise Conflict("this user is a member already")
        if await invitation_store.count_others(tx, organization, address) >= MOST_OPEN:
            raise Conflict(f"an organization may have {MOST_OPEN} open invitations; withdraw some first")
        made = await invitation_store.put_invitation(
            tx,
            organization,
            address,
            query.role,
            digest=_digest_of(token),
            invited_by=UUID(caller.user_id),
            days=ctx.settings.invitation_days,
        )
    return contracts.CreatedInvitation(token=token, **_shown(made).model_dump())


async def withdraw(ctx: Context, query: contracts.WithdrawInvitation) -> None:
    """Raises ``NotFound``, and ``Forbidden`` for one to a role that may do more than the caller."""
    caller = await rights.reach(ctx, query.organization_id)
    identifier = rights.uuid_of(query.invitation_id, "invitation")
    async with ctx.db.transaction(query.organization_id) as tx:
        role = await invitation_store.delete_invitation(tx, query.organization_id, identifier)
        if role is None:
            raise NotFound("invitation not found")
        await rights.demand_at_least(tx, caller, query.organization_id, role)


async def accept(ctx: Context, token: str) -> contracts.Joined:
    """By the caller, logged in. Raises ``Forbidden`` for an API key, ``NotFound``, and ``Conflict`` for a member."""
    caller = await callers.acting(ctx)
    if actor.current().key_id:
        raise Forbidden("forbidden: log in to accept an invitation; an API key belongs to one organization")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        redeemed = await redeem(tx, token, caller.email)
        organization = redeemed.organization_id
        await members.join(tx, organization, UUID(caller.user_id), redeemed.role)
        return contracts.Joined(
            organization=organizations.shown(await organizations.existing(tx, organization)),
            member=members.shown(await members.existing(tx, organization, caller.user_id)),
        )


async def redeem(tx: Transaction, token: str, email: str) -> Redeemed:
    """Uses the invitation up; making the member is for the caller, in the same transaction, of ``EVERY_ORGANIZATION``.

    Locks the organization. Raises ``NotFound`` for a token that is unknown, used, withdrawn, expired or for another
    address alike.
    """
    invitation = await invitation_store.redeem_invitation(tx, _digest_of(token), addresses.normalised(email))
    if invitation is None:
        raise NotFound("invitation not found: it may have been used, have expired, or be for another address")
    return Redeemed(invitation.organization_id, invitation.role)


def _digest_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _shown(invitation: Invitation) -> contracts.Invitation:
    return contracts.Invitation(
        id=str(invitation.id),
        email=invitation.email,
        role=invitation.role,
        invited_by=str(invitation.invited_by),
        created_at=invitation.created_at.timestamp(),
        expires_at=invitation.expires_at.timestamp(),
    )
