"""Users of an organization, as its admins see and change them."""

import secrets
from uuid import UUID

from libs.common import paging
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.users import CreatedUser, CreateUser, ListUsers, UpdateUser, User
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import OPERATING_ORGANIZATION, Permission
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Conflict, Forbidden, NotFound
from services.auth import accounts, addresses, callers, lockout, members, rights, sessions
from services.auth.confirmation import own_id
from services.auth.context import Context
from services.auth.passwords import require_good
from services.auth.sessions import shown
from services.auth.store import invitations as invitation_store
from services.auth.store import members as member_store
from services.auth.store import users as user_store
from services.auth.store.users import Account

MADE_PASSWORD_BYTES = 15


async def list_all(ctx: Context, query: ListUsers) -> Page[User]:
    caller = await callers.acting(ctx)
    async with ctx.db.transaction() as tx:
        rows = await user_store.list_accounts(
            tx,
            caller.organization_id,
            email=addresses.normalised(query.email),
            role=query.role,
            after=paging.decode_newest(query.paging.cursor, UUID),
            limit=query.paging.limit + 1,
        )
    return paging.page(rows, query.paging, shown, lambda user: (user.created_at.timestamp(), str(user.id)))


async def get(ctx: Context, user_id: str) -> User:
    """Raises ``NotFound``."""
    caller = await callers.acting(ctx)
    async with ctx.db.transaction() as tx:
        return shown(await _account(tx, caller, user_id))


async def create(ctx: Context, query: CreateUser) -> CreatedUser:
    """Raises ``InvalidRequest``, ``Forbidden`` for a role that may do more than the caller, ``Conflict``.

    A ``Conflict`` tells that an address has an account, perhaps elsewhere. Who does not know of all of them anyway is
    not to try addresses out: it counts as a failed registration does. Raises ``RateLimited`` after some.
    """
    caller, email = await callers.acting(ctx), addresses.checked(query.email)
    made = secrets.token_urlsafe(MADE_PASSWORD_BYTES) if query.password is None else None
    password_hash = await _hash(ctx, made or query.password or "", email)
    try:
        account = await _insert(ctx, caller, query, email, password_hash)
    except Conflict:
        if Permission.TENANT_MANAGE not in caller.permissions:
            await lockout.note_failure(ctx, _as_creator(caller), caller.user_id, what="registration")
        raise
    return CreatedUser(password=made, **shown(account).model_dump())


def _as_creator(caller: Identity) -> str:
    """Apart from logins: whoever fails to log in as the caller does not stop this, nor does this stop logins."""
    return f"users created by {caller.email}"


async def _insert(ctx: Context, caller: Identity, query: CreateUser, email: str, password_hash: str) -> Account:
    organization = caller.organization_id
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        caller = await rights.lock_for(tx, caller, organization, Permission.USER_MANAGE)
        if Permission.TENANT_MANAGE not in caller.permissions:
            await lockout.check(tx, _as_creator(caller))
        role = await rights.role_of_name(tx, organization, query.role)
        rights.demand_holds(caller, organization, role)
        user_id = await user_store.insert_user(tx, organization, email, query.name.strip(), password_hash)
        if user_id is None:
            raise Conflict("this address has an account already; invite it")
        await members.join(tx, organization, user_id, role.name)
        return await _account(tx, caller, str(user_id))


async def update(ctx: Context, query: UpdateUser) -> User:
    """Effective at once, on every gateway. Raises as the message says."""
    caller, password_hash = await callers.acting(ctx), None
    if query.password is not None:
        password_hash = await _hash_for_another(ctx, caller, query.user_id, query.password)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        if query.disabled:
            await accounts.lock_organizations(tx, (await _account(tx, caller, query.user_id)).id)
        caller = await rights.lock_for(tx, caller, caller.organization_id, Permission.USER_MANAGE)
        account = await _to_change(tx, caller, query.user_id, query.expected_version)
        if query.role is not None and query.role != account.role:
            role = await rights.role_of_name(tx, caller.organization_id, query.role)
            rights.demand_holds(caller, caller.organization_id, role)
            await member_store.set_role(tx, caller.organization_id, account.id, role.name)
        await _update_everywhere(tx, caller, query, password_hash)
        await members.changed(tx, caller.organization_id, account.id, account.role)
        return shown(await _account(tx, caller, query.user_id))


async def _update_everywhere(tx: Transaction, caller: Identity, query: UpdateUser, password_hash: str | None) -> None:
    """What an account has in common in all of its organizations, which are locked if it is disabled."""
    name = None if query.name is None else query.name.strip()
    if (name, query.disabled, password_hash) == (None, None, None):
        return
    everywhere = await accounts.managed(tx, caller, query.user_id)
    user_id = everywhere[0].id
    await user_store.update_user(tx, user_id, name=name, disabled=query.disabled, password_hash=password_hash)
    if query.disabled or password_hash is not None:
        await sessions.end(tx, user_id)
    if query.disabled:
        await invitation_store.delete_invitations_by(tx, user_id, OPERATING_ORGANIZATION)
        await accounts.keep_admins(tx, everywhere)


async def remove(ctx: Context, user_id: str, expected_version: int | None) -> None:
    """Raises as ``update``."""
    caller = await callers.acting(ctx)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        caller = await rights.lock_for(tx, caller, caller.organization_id, Permission.USER_MANAGE)
        account = await _to_change(tx, caller, user_id, expected_version)
        await members.leave(tx, caller.organization_id, account.id, account.role)


async def log_out(ctx: Context, user_id: str) -> None:
    """In the caller's organization. Raises ``NotFound``, and ``Forbidden`` for who may do more than the caller."""
    caller = await callers.acting(ctx)
    async with ctx.db.transaction() as tx:
        account = await _account(tx, caller, user_id)
        await rights.demand_at_least(tx, caller, caller.organization_id, account.role)
        await sessions.end(tx, account.id)


async def _account(tx: Transaction, caller: Identity, user_id: str) -> Account:
    account = await user_store.account_of(tx, caller.organization_id, rights.uuid_of(user_id, "user"))
    if account is None:
        raise NotFound("user not found")
    return account


async def _to_change(tx: Transaction, caller: Identity, user_id: str, expected_version: int | None) -> Account:
    """Nobody else changes it until the transaction ends: the organization is locked.

    Not for who may do more than the caller.
    """
    account = await _account(tx, caller, user_id)
    await user_store.lock_user(tx, account.id)
    account = await _account(tx, caller, user_id)
    rights.check_version(account.version, expected_version)
    await rights.demand_at_least(tx, caller, caller.organization_id, account.role)
    return account


async def _hash_for_another(ctx: Context, caller: Identity, user_id: str, password: str) -> str:
    """One's own password is changed by who knows the old one."""
    if str(own_id()) == user_id:
        raise Forbidden("change your own password with the old one: POST /api/v1/users/password")
    async with ctx.db.transaction() as tx:
        account = await _account(tx, caller, user_id)
    return await _hash(ctx, password, account.email)


async def _hash(ctx: Context, password: str, email: str) -> str:
    require_good(password, email, ctx.settings.password_min_length)
    async with ctx.passwords.turn():
        return await ctx.passwords.hash(password)
