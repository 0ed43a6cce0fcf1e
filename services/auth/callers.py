"""Who is calling: the identity behind a key or a session, with everything the gateways decide by."""

import re
import time
from uuid import UUID

from libs.common import actor
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import ROLES, Permission, effective
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Unauthenticated
from services.auth import limits, second_factor
from services.auth.context import Context
from services.auth.store import callers as caller_store
from services.auth.store.callers import Caller

DIGEST = re.compile(r"[0-9a-f]{64}")


async def identify_key(ctx: Context, digest: str) -> Identity:
    """Raises ``Unauthenticated``.

    The lookup's time may tell how much of a digest is right; that helps nobody to find a key that has it.
    """
    if not DIGEST.fullmatch(digest):
        raise Unauthenticated
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        identity = await _identity(tx, await caller_store.caller_of_key(tx, digest))
    if identity.key_id is not None:
        ctx.used_keys[UUID(identity.key_id)] = time.time()
    return identity


async def identify_session(ctx: Context, session_id: str) -> Identity:
    """Raises ``Unauthenticated``."""
    try:
        identifier = UUID(session_id)
    except ValueError:
        raise Unauthenticated from None
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        return await _identity(tx, await caller_store.caller_of_session(tx, identifier))


async def acting(ctx: Context) -> Identity:
    """The caller on whose behalf this task works, whom a gateway has recognised, with the rights of now.

    Raises ``Unauthenticated`` for who has lost all of them meanwhile.
    """
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        return await acting_now(tx)


async def acting_now(tx: Transaction) -> Identity:
    """As ``acting``, in a transaction that sees the caller's organization."""
    who = actor.current()
    try:
        user_id, key_id, session_id = UUID(who.user_id), _optional(who.key_id), _optional(who.session_id)
    except ValueError:
        raise Unauthenticated from None
    return await _identity(
        tx, await caller_store.caller_of_member(tx, who.organization_id, user_id, key_id, session_id)
    )


def permissions_of_role(name: str, own: list[str] | None, organization_id: str) -> frozenset[Permission]:
    """``own``: what the table says of it, None unless it is a role of the organization's own."""
    granted = ROLES.get(name, frozenset()) if own is None else _known(own)
    return effective(granted, organization_id)


def _known(permissions: list[str]) -> frozenset[Permission]:
    """A newer version may have written some that this one does not know."""
    return frozenset(permission for permission in Permission if permission in permissions)


async def _identity(tx: Transaction, caller: Caller | None) -> Identity:
    if caller is None:
        raise Unauthenticated
    return Identity(
        organization_id=caller.organization_id,
        user_id=str(caller.id),
        key_id=str(caller.key_id) if caller.key_id else None,
        session_id=str(caller.session_id) if caller.session_id else None,
        email=caller.email,
        role=caller.role,
        permissions=_permissions(caller),
        models=tuple(tuple(patterns) for patterns in (caller.role_models, caller.key_models) if patterns),
        limits=await limits.applied(tx, caller.organization_id, caller.id, caller.key_id),
        organization_weight=caller.organization_weight,
        key_weight=caller.key_weight,
        stores_prompts=caller.stores_prompts,
        expires_at=caller.expires_at.timestamp() if caller.expires_at else None,
    )


def _permissions(caller: Caller) -> frozenset[Permission]:
    granted = permissions_of_role(caller.role, caller.permissions, caller.organization_id)
    if caller.lacks_second_factor:
        granted = second_factor.UNTIL_SET_UP
    return granted if caller.scopes is None else granted & _known(caller.scopes)


def _optional(identifier: str) -> UUID | None:
    return UUID(identifier) if identifier else None
