"""Roles of an organization whose members must have a second factor."""

from libs.common import outbox
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.auth.second_factor import SecondFactorPolicy
from libs.common.contracts.permissions import Permission
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import NotFound, PreconditionFailed
from services.auth import rights
from services.auth.context import Context
from services.auth.store import second_factor as second_factor_store
from services.auth.store.second_factor import Policy


async def get(ctx: Context, organization_id: str) -> SecondFactorPolicy:
    """Raises ``NotFound``."""
    await rights.reach(ctx, organization_id)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        policy = await second_factor_store.policy_of(tx, organization_id)
    if policy is None:
        raise NotFound("organization not found")
    return _shown(policy)


async def put(
    ctx: Context, organization_id: str, roles: tuple[str, ...], expected_version: int | None
) -> SecondFactorPolicy:
    """Effective at once.

    Raises ``NotFound``, ``Forbidden``, ``InvalidRequest`` for an unknown role, ``PreconditionFailed``.
    """
    caller = await rights.reach(ctx, organization_id)
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await rights.lock_for(tx, caller, organization_id, Permission.ORGANIZATION_MANAGE)
        for name in roles:
            await rights.role_of_name(tx, organization_id, name)
        policy = await second_factor_store.update_policy(tx, organization_id, sorted(set(roles)), expected_version)
        if policy is None:
            raise PreconditionFailed
        await outbox.stage(tx, IdentityChanged(organization_id=organization_id))
    return _shown(policy)


def _shown(policy: Policy) -> SecondFactorPolicy:
    return SecondFactorPolicy(roles=tuple(policy.second_factor_roles), version=policy.version)
