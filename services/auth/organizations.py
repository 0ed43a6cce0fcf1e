"""Organizations: made and deleted by who manages tenants, kept by their own admins."""

import re
from uuid import UUID

from libs.common import outbox, paging
from libs.common.contracts.auth import organizations as contracts
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.organizations import ORGANIZATION_ID
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import OPERATING_ORGANIZATION, Permission
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Conflict, NotFound
from services.auth import callers, rights
from services.auth.context import Context
from services.auth.store import members as member_store
from services.auth.store import organizations as organization_store
from services.auth.store.organizations import Organization


async def list_of(ctx: Context, query: contracts.ListOrganizations) -> Page[contracts.Organization]:
    """A key knows of the organization it works in and no other, unless it manages tenants."""
    caller = await callers.acting(ctx)
    after = paging.decode_newest(query.paging.cursor, _id)
    everything = Permission.TENANT_MANAGE in caller.permissions
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await organization_store.list_organizations(
            tx,
            None if everything else UUID(caller.user_id),
            caller.organization_id if caller.key_id and not everything else None,
            after,
            query.paging.limit + 1,
        )
    return paging.page(rows, query.paging, shown, lambda row: (row.created_at.timestamp(), row.id))


async def get(ctx: Context, organization_id: str) -> contracts.Organization:
    """Raises ``NotFound`` for those that ``list_of`` does not show."""
    caller = await callers.acting(ctx)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        if organization_id != caller.organization_id and Permission.TENANT_MANAGE not in caller.permissions:
            member = await member_store.member_of_id(tx, organization_id, UUID(caller.user_id))
            if member is None or caller.key_id:
                raise NotFound("organization not found")
        return shown(await existing(tx, organization_id))


async def create(ctx: Context, query: contracts.CreateOrganization) -> contracts.Organization:
    """The caller becomes its admin. Raises ``InvalidRequest`` and ``Conflict``."""
    caller, name = await callers.acting(ctx), rights.checked_name(query.name)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        made = await organization_store.insert_organization(
            tx, query.id, name, query.description, store_prompts=query.store_prompts, weight=query.weight or 1.0
        )
        if made is None:
            raise Conflict("there is or was an organization of this id")
        await member_store.insert_member(tx, made.id, UUID(caller.user_id), rights.ADMIN)
    return shown(made)


async def update(ctx: Context, query: contracts.UpdateOrganization) -> contracts.Organization:
    """Raises ``NotFound``, ``InvalidRequest``, ``Forbidden`` and ``PreconditionFailed``."""
    caller = await rights.reach(ctx, query.organization_id)
    name = rights.checked_name(query.name)
    async with ctx.db.transaction(query.organization_id) as tx:
        caller = await rights.lock_for(tx, caller, query.organization_id, Permission.ORGANIZATION_MANAGE)
        before = await existing(tx, query.organization_id)
        rights.check_version(before.version, query.expected_version)
        weight = rights.new_weight(caller, before.weight, query.weight, Permission.TENANT_MANAGE)
        after = await organization_store.update_organization(
            tx, query.organization_id, name, query.description, store_prompts=query.store_prompts, weight=weight
        )
        if (before.store_prompts, before.weight) != (after.store_prompts, after.weight):
            await outbox.stage(tx, IdentityChanged(organization_id=query.organization_id))
    return shown(after)


async def delete(ctx: Context, query: contracts.DeleteOrganization) -> None:
    """Nobody is its member any more, at once; requests that run finish.

    Raises ``NotFound``, ``Conflict`` for the operating organization, and ``PreconditionFailed``.
    """
    await rights.reach(ctx, query.organization_id)
    if query.organization_id == OPERATING_ORGANIZATION:
        raise Conflict("this organization runs the installation; it cannot be deleted")
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await rights.lock_organization(tx, query.organization_id)
        rights.check_version((await existing(tx, query.organization_id)).version, query.expected_version)
        await organization_store.delete_organization(tx, query.organization_id)
        await outbox.stage(tx, IdentityChanged(organization_id=query.organization_id))
        await outbox.stage(tx, contracts.OrganizationDeleted(organization_id=query.organization_id))


async def existing(tx: Transaction, organization_id: str) -> Organization:
    organization = await organization_store.organization_of_id(tx, organization_id)
    if organization is None:
        raise NotFound("organization not found")
    return organization


def shown(organization: Organization) -> contracts.Organization:
    return contracts.Organization(
        id=organization.id,
        name=organization.name,
        description=organization.description,
        store_prompts=organization.store_prompts,
        weight=organization.weight,
        created_at=organization.created_at.timestamp(),
        version=organization.version,
    )


def _id(text: str) -> str:
    if re.fullmatch(ORGANIZATION_ID, text) is None:
        raise ValueError(text)
    return text
