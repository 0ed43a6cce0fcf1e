"""Who may do what to whom: rules that members, invitations, roles and keys share."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from uuid import UUID

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import ROLES, Permission
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Conflict, Forbidden, InvalidRequest, NotFound, PreconditionFailed
from services.auth import callers
from services.auth.context import Context
from services.auth.store import members as member_store
from services.auth.store import organizations as organization_store
from services.auth.store import roles as role_store
from services.auth.store.roles import Role

ADMIN = "admin"
MOST_LETTERS = 100
"""Of names."""


async def reach(ctx: Context, organization_id: str) -> Identity:
    """The caller, if this is the caller's organization, or another one that the caller manages.

    Raises ``NotFound``, as if it were not there.
    """
    caller = await callers.acting(ctx)
    if organization_id == caller.organization_id:
        return caller
    if Permission.TENANT_MANAGE in caller.permissions:
        async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            if await organization_store.organization_of_id(tx, organization_id) is not None:
                return caller
    raise NotFound("organization not found")


async def lock_organization(tx: Transaction, organization_id: str) -> None:
    """Changes of its members, roles and invitations come one after the other. Raises ``NotFound``."""
    if not await organization_store.lock_organization(tx, organization_id):
        raise NotFound("organization not found")


async def lock_for(tx: Transaction, caller: Identity, organization_id: str, permission: Permission) -> Identity:
    """As ``lock_organization``, for a change that takes this permission: the caller, with the rights of now.

    Who was demoted or removed while we waited would else undo it. Raises ``Forbidden`` and ``Unauthenticated``.
    """
    await lock_organization(tx, organization_id)
    if caller.organization_id != organization_id:
        return caller
    now = await callers.acting_now(tx)
    demand_permissions(now, [permission])
    return now


async def role_of_name(tx: Transaction, organization_id: str, name: str) -> Role:
    """Raises ``InvalidRequest``."""
    role = await find_role(tx, organization_id, name)
    if role is None:
        raise InvalidRequest(f"there is no role {name!r}")
    return role


async def find_role(tx: Transaction, organization_id: str, name: str) -> Role | None:
    if name in ROLES:
        return Role(name)
    return await role_store.role_of_name(tx, organization_id, name)


async def demand_at_least(tx: Transaction, caller: Identity, organization_id: str, *roles: str) -> None:
    """Nobody gives a role, or takes one away, that may do more than they may. Raises ``Forbidden``.

    Who manages tenants may give every role of another organization. A role that is gone may nothing.
    """
    for name in roles:
        role = await find_role(tx, organization_id, name)
        if role is not None:
            demand_holds(caller, organization_id, role)


def demand_holds(caller: Identity, organization_id: str, role: Role) -> None:
    """Raises ``Forbidden``."""
    if caller.organization_id != organization_id:
        return
    granted = callers.permissions_of_role(role.name, role.permissions, organization_id)
    demand_permissions(caller, granted)
    demand_models(caller, role.models)


def demand_permissions(caller: Identity, wanted: Iterable[str]) -> None:
    """Raises ``Forbidden``."""
    if missing := set(wanted) - caller.permissions:
        raise Forbidden(f"forbidden: you do not have {', '.join(sorted(missing))} yourself")


def demand_models(caller: Identity, patterns: Iterable[str]) -> None:
    """No patterns: all models. Raises ``Forbidden``."""
    wanted = tuple(patterns) or ("*",)
    for group in caller.models:
        for pattern in wanted:
            if not any(covers(held, pattern) for held in group):
                raise Forbidden(f"forbidden: {pattern} is more than the models you may use yourself")


def covers(held: str, wanted: str) -> bool:
    """Whether all names that match ``wanted`` match ``held``; False as well where that is hard to tell.

    What ``*`` takes of a pattern's text it takes of all its names; ``?`` would take a ``*`` for one letter.
    """
    held, wanted = held.lower(), wanted.lower()
    if held == wanted:
        return True
    if "*" in wanted and "?" in held:
        return False
    return fnmatchcase(wanted, held)


async def keep_an_admin(tx: Transaction, organization_id: str) -> None:
    """After a change that may have taken the last one away; the organization is locked. Raises ``Conflict``."""
    if not await member_store.has_active_admin(tx, organization_id):
        raise Conflict("an organization needs an admin; make somebody else one first")


def check_version(version: int, expected: int | None) -> None:
    """Raises ``PreconditionFailed``. None expects nothing."""
    if expected is not None and version != expected:
        raise PreconditionFailed


def checked_name(name: str) -> str:
    """Raises ``InvalidRequest``."""
    label = name.strip()
    if not 1 <= len(label) <= MOST_LETTERS or not label.isprintable():
        raise InvalidRequest(f"name must have 1 to {MOST_LETTERS} printable characters")
    return label


def uuid_of(text: str, what: str) -> UUID:
    """Raises ``NotFound``: nothing has an id that is none."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"{what} not found") from None


def new_weight(caller: Identity, now: float, wished: float | None, permission: Permission) -> float:
    """None: as it is now. A share is taken from others. Raises ``Forbidden``."""
    if wished is None or wished == now:
        return now
    if permission not in caller.permissions:
        raise Forbidden(f"forbidden: another weight than {now:g} takes the permission {permission}")
    return wished
