"""The SQL of limits."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from libs.common.contracts.auth.identity import Limits
from libs.common.database import Transaction


@dataclass(frozen=True)
class LimitsRow:
    scope: str
    id: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_streams: int | None
    tokens_per_day: int | None
    tokens_per_month: int | None
    version: int


_COLUMNS: Final = """
    scope, id, requests_per_minute, tokens_per_minute, concurrent_streams, tokens_per_day, tokens_per_month, version
"""


async def limits_on(tx: Transaction, organization_id: str, user_id: str | None, key_id: str | None) -> list[LimitsRow]:
    """All that count for a caller: those of key, user and organization, and of each pattern of models."""
    async with tx.cursor(row_factory=class_row(LimitsRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS}
            from usage_limits
            where organization_id = %(organization)s and (
                scope in ('organization', 'model') or scope = 'user' and id = %(user)s or scope = 'key' and id = %(key)s
            ) order by scope, id
            """,  # noqa: S608  constants
            {"organization": organization_id, "user": user_id, "key": key_id},
        )
        return await cursor.fetchall()


async def limits_of(tx: Transaction, organization_id: str, scope: str, identifier: str) -> LimitsRow | None:
    """Locked, if there are any: whoever changes them next waits."""
    async with tx.cursor(row_factory=class_row(LimitsRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS}
            from usage_limits where organization_id = %s and scope = %s and id = %s for no key update
            """,  # noqa: S608  constants
            [organization_id, scope, identifier],
        )
        return await cursor.fetchone()


async def list_limits(tx: Transaction, organization_id: str, after: tuple[str, str], limit: int) -> list[LimitsRow]:
    """By scope and id, those after ``after``."""
    async with tx.cursor(row_factory=class_row(LimitsRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS}
            from usage_limits where organization_id = %s and (scope, id) > (%s, %s) order by scope, id limit %s
            """,  # noqa: S608  constants
            [organization_id, *after, limit],
        )
        return await cursor.fetchall()


async def put_limits(tx: Transaction, organization_id: str, scope: str, identifier: str, limits: Limits) -> LimitsRow:
    """Raises psycopg's ``ForeignKeyViolation`` if the organization has no such key or member."""
    async with tx.cursor(row_factory=class_row(LimitsRow)) as cursor:
        await cursor.execute(
            f"""
            insert into usage_limits as old (
                organization_id, scope, id, requests_per_minute, tokens_per_minute, concurrent_streams, tokens_per_day,
                tokens_per_month
            ) values (%s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (organization_id, scope, id) do update set
                requests_per_minute = excluded.requests_per_minute,
                tokens_per_minute = excluded.tokens_per_minute,
                concurrent_streams = excluded.concurrent_streams,
                tokens_per_day = excluded.tokens_per_day,
                tokens_per_month = excluded.tokens_per_month,
                version = old.version + 1
            returning {_COLUMNS}
            """,  # noqa: S608  constants
            [
                organization_id,
                scope,
                identifier,
                limits.requests_per_minute,
                limits.tokens_per_minute,
                limits.concurrent_streams,
                limits.tokens_per_day,
                limits.tokens_per_month,
            ],
        )
        row = await cursor.fetchone()
        assert row is not None
        return row


async def delete_limits(tx: Transaction, organization_id: str, scope: str, identifier: str) -> None:
    await tx.execute(
        "delete from usage_limits where organization_id = %s and scope = %s and id = %s",
        [organization_id, scope, identifier],
    )


async def count_model_limits(tx: Transaction, organization_id: str) -> int:
    rows = await tx.execute(
        "select count(*) from usage_limits where organization_id = %s and scope = 'model'", [organization_id]
    )
    row = await rows.fetchone()
    assert row is not None
    return int(row[0])


async def digest_of_key(tx: Transaction, key_id: UUID) -> str:
    rows = await tx.execute("select digest from api_keys where id = %s", [key_id])
    row = await rows.fetchone()
    assert row is not None
    return str(row[0])
