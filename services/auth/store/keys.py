"""The SQL of API keys. Of the organization that the transaction works for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from libs.common.database import Transaction


@dataclass(frozen=True)
class Key:
    """``role``: the owner's. ``limits``: the row of its own, if there is one."""

    id: UUID
    user_id: UUID
    role: str
    name: str
    prefix: str
    digest: str
    scopes: list[str] | None
    models: list[str]
    limits: dict[str, Any] | None
    weight: float
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    version: int


_KEY: Final = """
    select keys.id, keys.user_id, role, name, prefix, digest, scopes, models, to_jsonb(usage_limits) as limits,
           weight, keys.created_at, last_used_at, expires_at, keys.version
    from api_keys as keys join memberships using (organization_id, user_id)
    left join usage_limits on usage_limits.organization_id = keys.organization_id and usage_limits.key_id = keys.id
    where revoked_at is null
"""


async def lock_owner(tx: Transaction, user_id: UUID) -> bool:
    """Whether there is such a member. Two transactions that count this user's keys come one after the other."""
    rows = await tx.execute("select from memberships where user_id = %s for no key update", [user_id])
    return await rows.fetchone() is not None


async def count_keys(tx: Transaction, user_id: UUID) -> int:
    rows = await tx.execute("select count(*) from api_keys where user_id = %s and revoked_at is null", [user_id])
    row = await rows.fetchone()
    assert row is not None
    return int(row[0])


async def insert_key(
    tx: Transaction,
    organization_id: str,
    user_id: UUID,
    name: str,
    *,
    prefix: str,
    digest: str,
    scopes: list[str] | None,
    models: list[str],
    expires_at: datetime | None,
    weight: float,
) -> UUID:
    rows = await tx.execute(
        """
        insert into api_keys (organization_id, user_id, name, prefix, digest, scopes, models, expires_at, weight)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s) returning id
        """,
        [organization_id, user_id, name, prefix, digest, scopes, models, expires_at, weight],
    )
    row = await rows.fetchone()
    assert row is not None
    key_id: UUID = row[0]
    return key_id


async def lock_key(tx: Transaction, key_id: UUID) -> None:
    """Nobody else changes it until the transaction ends."""
    await tx.execute("select from api_keys where id = %s for no key update", [key_id])


async def key_of_id(tx: Transaction, key_id: UUID) -> Key | None:
    """None for a revoked one."""
    async with tx.cursor(row_factory=class_row(Key)) as cursor:
        await cursor.execute(_KEY + "and keys.id = %s", [key_id])
        return await cursor.fetchone()


async def list_keys(
    tx: Transaction, user_id: UUID | None, after: tuple[datetime | None, UUID | None], limit: int
) -> list[Key]:
    """Newest first, without those revoked. ``user_id``: None for everybody's."""
    async with tx.cursor(row_factory=class_row(Key)) as cursor:
        await cursor.execute(
            _KEY
            + """
              and (%(user)s::uuid is null or keys.user_id = %(user)s)
              and (%(at)s::timestamptz is null or (keys.created_at, keys.id) < (%(at)s, %(id)s))
            order by keys.created_at desc, keys.id desc limit %(limit)s
            """,
            {"user": user_id, "at": after[0], "id": after[1], "limit": limit},
        )
        return await cursor.fetchall()


async def update_key(
    tx: Transaction,
    key_id: UUID,
    name: str,
    *,
    scopes: list[str] | None,
    models: list[str],
    expires_at: datetime | None,
    weight: float,
) -> None:
    await tx.execute(
        """
        update api_keys
        set name = %s, scopes = %s, models = %s, expires_at = %s, weight = %s, version = version + 1 where id = %s
        """,
        [name, scopes, models, expires_at, weight, key_id],
    )


async def revoke_key(tx: Transaction, key_id: UUID) -> None:
    await tx.execute("update api_keys set revoked_at = now(), version = version + 1 where id = %s", [key_id])


async def revoke_all(tx: Transaction, user_id: UUID) -> None:
    """Of this user, wherever the transaction sees them."""
    await tx.execute(
        "update api_keys set revoked_at = now(), version = version + 1 where user_id = %s and revoked_at is null",
        [user_id],
    )


async def mark_keys_used(tx: Transaction, used: Mapping[UUID, float]) -> None:
    """``used``: key to seconds since the epoch. Replicas report in any order; the latest use stands."""
    await tx.execute(
        """
        update api_keys set last_used_at = greatest(last_used_at, to_timestamp(used.at))
        from unnest(%s::uuid[], %s::float8[]) as used (id, at) where api_keys.id = used.id
        """,
        [list(used.keys()), list(used.values())],
    )
