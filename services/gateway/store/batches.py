"""The SQL of batches: what they are asked for, how far they are, and which of them waits for a gateway."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from libs.common.contracts.exports import MOST_ROWS, ExportedRows, exported
from libs.common.database import Transaction

STATES: Final = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
"""Those whose time is noted."""


@dataclass(frozen=True)
class Batch:
    """Times are seconds since the epoch. A batch with ``expired_at`` is finalized like any other, and then expired."""

    id: str
    organization_id: str
    user_id: str
    key_id: str | None
    endpoint: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    completion_window: str
    metadata: dict[str, str]
    status: str
    errors: list[dict[str, Any]]
    total: int
    completed: int
    failed: int
    created_at: float
    expires_at: float
    in_progress_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    failed_at: float | None
    expired_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None


def _column(name: str) -> str:
    return f"extract(epoch from batches.{name})::float8 as {name}" if name.endswith("_at") else f"batches.{name}"


_COLUMNS: Final = ", ".join(_column(field.name) for field in fields(Batch))


async def insert(
    tx: Transaction,
    *,
    batch_id: str,
    organization: str,
    user_id: str,
    key_id: str | None,
    endpoint: str,
    input_file: str,
    window: str,
    seconds: float,
    metadata: Mapping[str, str],
) -> Batch:
    async with tx.cursor(row_factory=class_row(Batch)) as cursor:
        await cursor.execute(
            f"""
            insert into batches (id, organization_id, user_id, key_id, endpoint, input_file_id, completion_window,
                                 metadata, expires_at)
            values (%s, %s, %s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s)) returning {_COLUMNS}
            """,  # noqa: S608  constants
            [
                batch_id, organization, user_id, key_id, endpoint, input_file, window, Jsonb(dict(metadata)), seconds
            ],
        )  # fmt: skip
        inserted = await cursor.fetchone()
        assert inserted is not None
        return inserted


async def get(tx: Transaction, batch_id: str, user_id: str | None) -> Batch | None:
    """``user_id``: only if it is theirs."""
    async with tx.cursor(row_factory=class_row(Batch)) as cursor:
        await cursor.execute(
            f"select {_COLUMNS} from batches where id = %(id)s and (%(user)s::text is null or user_id = %(user)s)",  # noqa: S608
            {"id": batch_id, "user": user_id},
        )
        return await cursor.fetchone()


async def some(tx: Transaction, user_id: str | None, after: str | None, limit: int) -> list[Batch]:
    """The newest first."""
    async with tx.cursor(row_factory=class_row(Batch)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from batches
            where (%(user)s::text is null or user_id = %(user)s)
                and (%(after)s::text is null or (batches.created_at, id) <
                    (select other.created_at, other.id from batches as other where other.id = %(after)s))
            order by batches.created_at desc, id desc limit %(limit)s
            """,  # noqa: S608  constants
            {"user": user_id, "after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def open_count(tx: Transaction, organization: str) -> int:
    """Of the organization that the transaction works for. Until it ends, nobody else counts them to begin another."""
    await tx.execute("select pg_advisory_xact_lock(hashtext('batches ' || %s))", [organization])
    rows = await tx.execute(
        "select count(*) from batches where status in ('validating', 'in_progress', 'finalizing', 'cancelling')"
    )
    row = await rows.fetchone()
    assert row is not None
    return int(row[0])


async def claim(tx: Transaction, seconds: float) -> Batch | None:
    """One whose input is to be read, or whose output is to be written; nobody else gets it for so long."""
    async with tx.cursor(row_factory=class_row(Batch)) as cursor:
        await cursor.execute(
            f"""
            update batches set claimed_until = now() + make_interval(secs => %s) where id = (
                select id from batches
                where claimed_until <= now() and (status = 'validating' or status in ('finalizing', 'cancelling')
                    and not exists (
                        select from batch_lines where batch_id = batches.id and succeeded is null
                            and batch_lines.claimed_until > now()
                    ))
                order by created_at limit 1 for update skip locked
            ) returning {_COLUMNS}
            """,  # noqa: S608  constants
            [seconds],
        )
        return await cursor.fetchone()


async def keep_claim(tx: Transaction, batch: Batch, seconds: float) -> bool:
    """False if it is not in the state any more in which it was claimed."""
    rows = await tx.execute(
        "update batches set claimed_until = now() + make_interval(secs => %s) where id = %s and status = %s",
        [seconds, batch.id, batch.status],
    )
    return bool(rows.rowcount)


async def begin(tx: Transaction, batch_id: str, total: int) -> bool:
    """Its lines may run. False if it is not being validated any more."""
    rows = await tx.execute(
        """
        update batches set status = 'in_progress', in_progress_at = now(), total = %s, claimed_until = now()
        where id = %s and status = 'validating'
        """,
        [total, batch_id],
    )
    return bool(rows.rowcount)


async def fail(tx: Transaction, batch_id: str, errors: Sequence[Mapping[str, Any]]) -> None:
    """Its input is no good."""
    rows = await tx.execute(
        "update batches set status = 'failed', failed_at = now(), errors = %s where id = %s and status = 'validating'",
        [Jsonb(list(errors)), batch_id],
    )
    if rows.rowcount:
        await tx.execute("delete from batch_lines where batch_id = %s", [batch_id])


async def cancel(tx: Transaction, batch_id: str, user_id: str | None) -> None:
    """Nothing happens if it is being finalized already, or has ended."""
    await tx.execute(
        """
        update batches set status = 'cancelling', cancelling_at = now(), claimed_until = now()
        where id = %(id)s and status in ('validating', 'in_progress') and (%(user)s::text is null or user_id = %(user)s)
        """,
        {"id": batch_id, "user": user_id},
    )


async def expire(tx: Transaction) -> None:
    """Those whose time is over: what is done of them is handed out."""
    await tx.execute(
        """
        update batches set status = 'finalizing', expired_at = now(), finalizing_at = now(), claimed_until = now()
        where status in ('validating', 'in_progress') and expires_at <= now()
        """
    )


async def finish(tx: Transaction, batch_id: str, status: str, output: str | None, errors: str | None) -> bool:
    """``status``: how it ends. False if it has ended already."""
    assert status in STATES
    rows = await tx.execute(
        f"""
        update batches set status = %s, {status}_at = now(), output_file_id = %s, error_file_id = %s
        where id = %s and status in ('finalizing', 'cancelling')
        """,  # noqa: S608  a constant
        [status, output, errors, batch_id],
    )
    if rows.rowcount:
        await tx.execute("delete from batch_lines where batch_id = %s", [batch_id])
    return bool(rows.rowcount)


async def let_wait(tx: Transaction, batch_id: str, seconds: float) -> None:
    """None of its lines is begun for so long."""
    await tx.execute(
        "update batches set waits_until = now() + make_interval(secs => %s) where id = %s", [seconds, batch_id]
    )


async def stopped(tx: Transaction, batch_ids: Sequence[str]) -> set[str]:
    """Which of these are not in progress any more."""
    rows = await tx.execute("select id from batches where id = any(%s) and status = 'in_progress'", [list(batch_ids)])
    return set(batch_ids) - {row[0] for row in await rows.fetchall()}


async def delete_old(tx: Transaction, days: int, most: int) -> int:
    """Of those that have ended: how many were deleted, at most ``most``."""
    rows = await tx.execute(
        """
        delete from batches where id in (
            select id from batches where status in ('completed', 'failed', 'expired', 'cancelled')
                and created_at < now() - make_interval(days => %s)
            limit %s
        )
        """,
        [days, most],
    )
    return rows.rowcount


async def export(tx: Transaction, user_id: str) -> ExportedRows:
    """As far as the transaction sees them, newest first."""
    async with tx.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            select id, organization_id, key_id, endpoint, status, metadata, total, completed, failed,
                   extract(epoch from batches.created_at)::float8 as created_at
            from batches where user_id = %s order by batches.created_at desc, id limit %s
            """,
            [user_id, MOST_ROWS + 1],
        )
        return exported(await cursor.fetchall())


async def stop(tx: Transaction, user_id: str | None) -> None:
    """Nothing more is done for those of one user, or (None) of the organization that the transaction works for."""
    await tx.execute(
        """
        update batches set status = 'cancelled', cancelled_at = now()
        where status in ('validating', 'in_progress', 'finalizing', 'cancelling')
            and (%(user)s::text is null or user_id = %(user)s)
        """,
        {"user": user_id},
    )


async def empty(tx: Transaction, user_id: str | None, most: int) -> int:
    """Those of ``stop`` lose some of their lines. How many, at most ``most``: of all it takes longer than it may."""
    rows = await tx.execute(
        """
        delete from batch_lines where id in (
            select batch_lines.id from batches join batch_lines on batch_id = batches.id
            where %(user)s::text is null or user_id = %(user)s limit %(most)s
        )
        """,
        {"user": user_id, "most": most},
    )
    return rows.rowcount


async def delete_all(tx: Transaction, user_id: str | None) -> None:
    """Those of ``stop``, with the lines that are left."""
    await tx.execute(
        "delete from batches where %(user)s::text is null or user_id = %(user)s",
        {"user": user_id},
    )
