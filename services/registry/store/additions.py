"""The SQL of models on their way here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg.rows import class_row

from libs.common.database import Transaction


@dataclass(frozen=True)
class Addition:
    organization_id: str
    name: str
    operation_id: str
    status: Literal["pulling", "failed"]
    error: str
    created_by: str
    tags: list[str]
    description: str
    created_at: datetime


async def begin(tx: Transaction, addition: Addition) -> bool:
    """False if it is on its way already."""
    rows = await tx.execute(
        """
        insert into model_additions as known
            (organization_id, name, operation_id, status, error, created_by, tags, description, created_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (organization_id, lower(name)) do update set
            name = excluded.name, operation_id = excluded.operation_id, status = excluded.status, error = '',
            created_by = excluded.created_by, tags = excluded.tags, description = excluded.description,
            created_at = excluded.created_at
        where known.status = 'failed'
        """,
        [
            *(addition.organization_id, addition.name, addition.operation_id, addition.status, addition.error),
            *(addition.created_by, addition.tags, addition.description, addition.created_at),
        ],
    )
    return rows.rowcount == 1


async def count_on_their_way(tx: Transaction) -> int:
    row = await (await tx.execute("select count(*) from model_additions where status = 'pulling'")).fetchone()
    return int(row[0]) if row else 0


async def forget_failed(tx: Transaction, kept: int) -> None:
    """All but the latest."""
    await tx.execute(
        """
        delete from model_additions where operation_id in (
            select operation_id from model_additions where status = 'failed' order by created_at desc offset %s)
        """,
        [kept],
    )


async def list_additions(tx: Transaction) -> list[Addition]:
    async with tx.cursor(row_factory=class_row(Addition)) as cursor:
        await cursor.execute(
            """
            select organization_id, name, operation_id, status, error, created_by, tags, description, created_at
            from model_additions
            """
        )
        return await cursor.fetchall()


async def find_addition(tx: Transaction, name: str) -> Addition | None:
    async with tx.cursor(row_factory=class_row(Addition)) as cursor:
        await cursor.execute(
            """
            select organization_id, name, operation_id, status, error, created_by, tags, description, created_at
            from model_additions where lower(name) = lower(%s)
            """,
            [name],
        )
        return await cursor.fetchone()


async def take_by_name(tx: Transaction, name: str) -> str | None:
    """The id of its operation; it is forgotten."""
    rows = await tx.execute("delete from model_additions where lower(name) = lower(%s) returning operation_id", [name])
    row = await rows.fetchone()
    return None if row is None else str(row[0])


async def take(tx: Transaction, operation_id: str) -> Addition | None:
    """It is forgotten."""
    async with tx.cursor(row_factory=class_row(Addition)) as cursor:
        await cursor.execute(
            """
            delete from model_additions where operation_id = %s
            returning organization_id, name, operation_id, status, error, created_by, tags, description, created_at
            """,
            [operation_id],
        )
        return await cursor.fetchone()


async def fail(tx: Transaction, operation_id: str, error: str) -> None:
    await tx.execute(
        "update model_additions set status = 'failed', error = %s where operation_id = %s", [error, operation_id]
    )


async def forget_all(tx: Transaction, organization: str) -> None:
    await tx.execute("delete from model_additions where organization_id = %s", [organization])
