"""Whole accounts, which may reach beyond an organization: who may touch those of others."""

from uuid import UUID

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from libs.common.database import Transaction
from libs.common.errors import Forbidden, NotFound, Unavailable
from services.auth import rights
from services.auth.store import users as user_store
from services.auth.store.users import Account


async def managed(tx: Transaction, caller: Identity, user_id: str) -> list[Account]:
    """The account in each of its organizations; the transaction sees ``EVERY_ORGANIZATION``.

    Raises ``NotFound`` for who is no member here, ``Forbidden`` for who may do more than the caller, or belongs to
    another organization too: what guards an account there is not for an admin here. Who manages tenants may do both.
    """
    accounts = await user_store.accounts_of(tx, rights.uuid_of(user_id, "user"))
    everywhere = Permission.TENANT_MANAGE in caller.permissions
    here = [account for account in accounts if account.organization_id == caller.organization_id]
    if not accounts or not (here or everywhere):
        raise NotFound("user not found")
    await rights.demand_at_least(tx, caller, caller.organization_id, *(account.role for account in here))
    if len(accounts) > 1 and not everywhere:
        raise Forbidden("this user belongs to other organizations too; only the installation's admins may do that")
    return accounts


async def lock_organizations(tx: Transaction, user_id: UUID) -> None:
    """Those of the account: before the account itself and in one order, or two would wait for each other.

    What was read of the account before may have changed. Raises ``Unavailable`` for who joins another one meanwhile.
    """
    locked = await _organizations(tx, user_id)
    for organization_id in sorted(locked):
        await rights.lock_organization(tx, organization_id)
    if not await _organizations(tx, user_id) <= locked:
        raise Unavailable("this account was changed meanwhile; please try again")


async def _organizations(tx: Transaction, user_id: UUID) -> set[str]:
    return {account.organization_id for account in await user_store.accounts_of(tx, user_id)}


async def keep_admins(tx: Transaction, accounts: list[Account]) -> None:
    """Where this one was an admin; the organizations are locked. Raises ``Conflict``."""
    for account in accounts:
        if account.role == rights.ADMIN:
            await rights.keep_an_admin(tx, account.organization_id)
