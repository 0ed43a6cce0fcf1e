"""The SQL of who is calling: a user in one organization, by key or by session, with what the role and the key allow."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from libs.common.database import Transaction
from services.auth.store.users import User


@dataclass(frozen=True)
class Caller(User):
    """A user in one organization, by key or by session."""

    role: str
    permissions: list[str] | None
    """Of a role of the organization's own; None: the role is one of those that are always there, or gone."""

    role_models: list[str]
    scopes: list[str] | None
    """Of the key; None: all that the owner may."""

    key_models: list[str]
    stores_prompts: bool
    organization_weight: float
    key_weight: float
    lacks_second_factor: bool
    """Though the role demands one."""

    key_id: UUID | None
    session_id: UUID | None
    expires_at: datetime | None


_RIGHTS: Final = """
    users.id, email, memberships.organization_id, memberships.role, roles.permissions,
    coalesce(roles.models, '{}') as role_models, store_prompts as stores_prompts,
    organizations.weight as organization_weight,
    memberships.role = any(second_factor_roles)
        and not exists (select from user_totp where user_id = users.id and activated_at is not null)
        as lacks_second_factor
"""

_MEMBER: Final = """
    join users on users.id = memberships.user_id and disabled_at is null
    join organizations on organizations.id = memberships.organization_id and deleted_at is null
    left join roles on roles.organization_id = memberships.organization_id and roles.name = memberships.role
"""


async def caller_of_key(tx: Transaction, digest: str) -> Caller | None:
    """None for keys that are unknown, expired or revoked, and of users who are disabled or no members any more."""
    async with tx.cursor(row_factory=class_row(Caller)) as cursor:
        await cursor.execute(
            f"""
            select {_RIGHTS}, keys.id as key_id, keys.scopes, keys.models as key_models,
                   keys.weight as key_weight, null as session_id, keys.expires_at
            from api_keys as keys join memberships using (organization_id, user_id) {_MEMBER}
            where digest = %s and revoked_at is null and (keys.expires_at is null or keys.expires_at > now())
            """,  # noqa: S608  constants
            [digest],
        )
        return await cursor.fetchone()


async def caller_of_session(tx: Transaction, session_id: UUID) -> Caller | None:
    """None for sessions that are unknown, expired or ended, and of users who are disabled or no members any more."""
    async with tx.cursor(row_factory=class_row(Caller)) as cursor:
        await cursor.execute(
            f"""
            select {_RIGHTS}, null as key_id, null as scopes, '{{}}'::text[] as key_models,
                   1::float8 as key_weight, sessions.id as session_id, sessions.expires_at
            from user_sessions as sessions join memberships using (organization_id, user_id) {_MEMBER}
            where sessions.id = %s and ended_at is null and sessions.expires_at > now()
            """,  # noqa: S608  constants
            [session_id],
        )
        return await cursor.fetchone()


async def caller_of_member(
    tx: Transaction, organization_id: str, user_id: UUID, key_id: UUID | None, session_id: UUID | None
) -> Caller | None:
    """A caller that was recognised before, with the rights of now. None if there is no such one any more."""
    async with tx.cursor(row_factory=class_row(Caller)) as cursor:
        await cursor.execute(
            f"""
            select {_RIGHTS}, keys.id as key_id, keys.scopes, coalesce(keys.models, '{{}}') as key_models,
                   coalesce(keys.weight, 1) as key_weight, sessions.id as session_id,
                   coalesce(keys.expires_at, sessions.expires_at) as expires_at
            from memberships {_MEMBER}
            left join api_keys as keys on keys.id = %(key)s and keys.user_id = memberships.user_id
                 and keys.organization_id = memberships.organization_id and revoked_at is null
                 and (keys.expires_at is null or keys.expires_at > now())
            left join user_sessions as sessions on sessions.id = %(session)s
                 and sessions.user_id = memberships.user_id
                 and sessions.organization_id = memberships.organization_id
                 and ended_at is null and sessions.expires_at > now()
            where memberships.organization_id = %(organization)s and memberships.user_id = %(user)s
                  and (%(key)s::uuid is null or keys.id is not null)
                  and (%(session)s::uuid is null or sessions.id is not null)
            """,  # noqa: S608  constants
            {"organization": organization_id, "user": user_id, "key": key_id, "session": session_id},
        )
        return await cursor.fetchone()
