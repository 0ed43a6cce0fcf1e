"""Roles: four that are always there, and an organization's own."""

from libs.common import outbox, paging
from libs.common.contracts.auth import roles as contracts
from libs.common.contracts.auth.identity import Identity, IdentityChanged
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import ROLES, Permission, effective
from libs.common.database import Transaction
from libs.common.errors import Conflict, InvalidRequest, NotFound
from services.auth import callers, rights
from services.auth.context import Context
from services.auth.store import roles as role_store
from services.auth.store.roles import Role

MOST_ROLES = 100
"""An organization may have of its own: they are read all together."""

DESCRIPTIONS = {
    "admin": "may do everything",
    "operator": "runs models and nodes, and sees what happens",
    "user": "uses models",
    "readonly": "looks, and changes nothing",
}


async def list_of(ctx: Context, query: contracts.ListRoles) -> Page[contracts.Role]:
    """By name."""
    await rights.reach(ctx, query.organization_id)
    after = paging.decode(query.paging.cursor, str)
    async with ctx.db.transaction(query.organization_id) as tx:
        own = await role_store.own_roles(tx, query.organization_id)
    roles = sorted([*own, *map(Role, ROLES)], key=lambda role: role.name)
    rest = [role for role in roles if after is None or role.name > str(after[0])]
    return paging.page(rest, query.paging, lambda role: _shown(query.organization_id, role), lambda role: (role.name,))


async def get(ctx: Context, organization_id: str, name: str) -> contracts.Role:
    await rights.reach(ctx, organization_id)
    async with ctx.db.transaction(organization_id) as tx:
        return _shown(organization_id, await _existing(tx, organization_id, name))


async def create(ctx: Context, query: contracts.CreateRole) -> contracts.Role:
    """Raises ``InvalidRequest``, ``Forbidden`` and ``Conflict``."""
    organization, caller = query.organization_id, await rights.reach(ctx, query.organization_id)
    wanted = _wanted(query, version=1)
    async with ctx.db.transaction(organization) as tx:
        caller = await rights.lock_for(tx, caller, organization, Permission.ORGANIZATION_MANAGE)
        if await rights.find_role(tx, organization, query.name) is not None:
            raise Conflict(f"there is a role {query.name!r} already")
        if len(await role_store.own_roles(tx, organization)) >= MOST_ROLES:
            raise Conflict(f"an organization may have {MOST_ROLES} roles of its own; delete one first")
        await _put(tx, caller, organization, wanted)
    return _shown(organization, wanted)


async def update(ctx: Context, query: contracts.UpdateRole) -> contracts.Role:
    """Effective at once. Raises as ``create``, and ``NotFound`` and ``PreconditionFailed``."""
    organization, caller = query.organization_id, await rights.reach(ctx, query.organization_id)
    async with ctx.db.transaction(organization) as tx:
        caller = await rights.lock_for(tx, caller, organization, Permission.ORGANIZATION_MANAGE)
        before = await _changeable(tx, caller, organization, query.name, query.expected_version)
        wanted = _wanted(query, version=before.version + 1)
        await _put(tx, caller, organization, wanted)
        await outbox.stage(tx, IdentityChanged(organization_id=organization))
    return _shown(organization, wanted)


async def delete(ctx: Context, query: contracts.DeleteRole) -> None:
    """Raises ``NotFound``, ``Forbidden``, ``Conflict`` and ``PreconditionFailed``."""
    organization, caller = query.organization_id, await rights.reach(ctx, query.organization_id)
    async with ctx.db.transaction(organization) as tx:
        caller = await rights.lock_for(tx, caller, organization, Permission.ORGANIZATION_MANAGE)
        await _changeable(tx, caller, organization, query.name, query.expected_version)
        if await role_store.has_bearers(tx, organization, query.name):
            raise Conflict(f"members or open invitations have the role {query.name!r}; give them another first")
        await role_store.delete_role(tx, organization, query.name)


async def _changeable(
    tx: Transaction, caller: Identity, organization_id: str, name: str, expected_version: int | None
) -> Role:
    """The organization is locked."""
    role = await _existing(tx, organization_id, name)
    if role.permissions is None:
        raise Conflict(f"the role {name!r} is always there, and always the same")
    rights.check_version(role.version, expected_version)
    rights.demand_holds(caller, organization_id, role)
    return role


async def _put(tx: Transaction, caller: Identity, organization_id: str, role: Role) -> None:
    wanted = frozenset(map(Permission, role.permissions or ()))
    if beyond := wanted - effective(wanted, organization_id):
        raise InvalidRequest(f"only the organization that runs the installation has {', '.join(sorted(beyond))}")
    rights.demand_holds(caller, organization_id, role)
    await role_store.put_role(tx, organization_id, role)


async def _existing(tx: Transaction, organization_id: str, name: str) -> Role:
    role = await rights.find_role(tx, organization_id, name)
    if role is None:
        raise NotFound("role not found")
    return role


def _wanted(query: contracts.CreateRole | contracts.UpdateRole, version: int) -> Role:
    permissions = sorted(permission.value for permission in query.permissions)
    return Role(query.name, query.description, permissions, query.models, version)


def _shown(organization_id: str, role: Role) -> contracts.Role:
    return contracts.Role(
        name=role.name,
        description=role.description or DESCRIPTIONS.get(role.name, ""),
        permissions=callers.permissions_of_role(role.name, role.permissions, organization_id),
        models=tuple(role.models),
        built_in=role.permissions is None,
        version=role.version,
    )
