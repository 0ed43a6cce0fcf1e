"""Members: users in an organization, each with a role."""

from uuid import UUID

from libs.common import outbox, paging
from libs.common.contracts.auth import members as contracts
from libs.common.contracts.auth.identity import Identity, IdentityChanged
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Conflict, Forbidden, NotFound
from services.auth import addresses, rights
from services.auth.context import Context
from services.auth.store import members as member_store
from services.auth.store.members import Member


async def list_of(ctx: Context, query: contracts.ListMembers) -> Page[contracts.Member]:
    await rights.reach(ctx, query.organization_id)
    after = paging.decode_newest(query.paging.cursor, UUID)
    async with ctx.db.transaction(query.organization_id) as tx:
        rows = await member_store.list_members(tx, query.organization_id, query.role, after, query.paging.limit + 1)
    return paging.page(rows, query.paging, shown, lambda row: (row.joined_at.timestamp(), str(row.user_id)))


async def get(ctx: Context, organization_id: str, user_id: str) -> contracts.Member:
    await rights.reach(ctx, organization_id)
    async with ctx.db.transaction(organization_id) as tx:
        return shown(await existing(tx, organization_id, user_id))


async def add(ctx: Context, query: contracts.AddMember) -> contracts.Member:
    """Who has an account elsewhere is nobody's business but the operator's, so all others invite.

    Raises ``Forbidden``, ``NotFound``, ``InvalidRequest`` and ``Conflict``.
    """
    caller = await rights.reach(ctx, query.organization_id)
    if Permission.TENANT_MANAGE not in caller.permissions:
        raise Forbidden("forbidden: invite them; only who manages tenants adds users without asking them")
    address = addresses.checked(query.email)
    async with ctx.db.transaction(query.organization_id) as tx:
        caller = await rights.lock_for(tx, caller, query.organization_id, Permission.USER_MANAGE)
        rights.demand_holds(
            caller, query.organization_id, await rights.role_of_name(tx, query.organization_id, query.role)
        )
        user_id = await member_store.user_of_email(tx, address)
        if user_id is None:
            raise NotFound("user not found")
        await join(tx, query.organization_id, user_id, query.role)
        return shown(await existing(tx, query.organization_id, str(user_id)))


async def join(tx: Transaction, organization_id: str, user_id: UUID, role: str) -> None:
    """Raises ``Conflict``."""
    if not await member_store.insert_member(tx, organization_id, user_id, role):
        raise Conflict("this user is a member already")


async def update(ctx: Context, query: contracts.UpdateMember) -> contracts.Member:
    """Raises ``NotFound``, ``InvalidRequest``, ``Forbidden``, ``Conflict`` and ``PreconditionFailed``."""
    caller = await rights.reach(ctx, query.organization_id)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        caller = await rights.lock_for(tx, caller, query.organization_id, Permission.USER_MANAGE)
        member = await existing(tx, query.organization_id, query.user_id)
        rights.check_version(member.version, query.expected_version)
        await change_role(tx, caller, query.organization_id, member, query.role)
        return shown(await existing(tx, query.organization_id, query.user_id))


async def change_role(tx: Transaction, caller: Identity, organization_id: str, member: Member, role: str) -> None:
    """The organization is locked, and the transaction that of ``EVERY_ORGANIZATION``.

    Raises ``InvalidRequest``, ``Forbidden``, and ``Conflict`` for the last admin.
    """
    wanted = await rights.role_of_name(tx, organization_id, role)
    await rights.demand_at_least(tx, caller, organization_id, member.role)
    rights.demand_holds(caller, organization_id, wanted)
    await member_store.set_role(tx, organization_id, member.user_id, role)
    await changed(tx, organization_id, member.user_id, member.role)


async def remove(ctx: Context, query: contracts.RemoveMember) -> None:
    """Raises ``NotFound``, ``Forbidden``, ``Conflict`` for the last admin, and ``PreconditionFailed``."""
    caller = await rights.reach(ctx, query.organization_id)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        caller = await rights.lock_for(tx, caller, query.organization_id, Permission.USER_MANAGE)
        member = await existing(tx, query.organization_id, query.user_id)
        rights.check_version(member.version, query.expected_version)
        await rights.demand_at_least(tx, caller, query.organization_id, member.role)
        await leave(tx, query.organization_id, member.user_id, member.role)


async def leave(tx: Transaction, organization_id: str, user_id: UUID, role: str) -> None:
    """The organization is locked, and the transaction that of ``EVERY_ORGANIZATION``. Raises ``Conflict``."""
    await member_store.delete_member(tx, organization_id, user_id)
    await changed(tx, organization_id, user_id, role)


async def changed(tx: Transaction, organization_id: str, user_id: UUID, role: str) -> None:
    """``role``: the one before. The transaction is as for ``leave``. Raises ``Conflict`` for the last admin."""
    if role == rights.ADMIN:
        await rights.keep_an_admin(tx, organization_id)
    await outbox.stage(tx, IdentityChanged(user_id=str(user_id)))


async def existing(tx: Transaction, organization_id: str, user_id: str) -> Member:
    """Raises ``NotFound``."""
    member = await member_store.member_of_id(tx, organization_id, rights.uuid_of(user_id, "member"))
    if member is None:
        raise NotFound("member not found")
    return member


def shown(member: Member) -> contracts.Member:
    return contracts.Member(
        user_id=str(member.user_id),
        email=member.email,
        role=member.role,
        joined_at=member.joined_at.timestamp(),
        disabled=member.disabled,
        version=member.version,
    )
