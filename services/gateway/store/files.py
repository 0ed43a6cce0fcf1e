"""The SQL of files and the pieces they are stored in, sealed."""

from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row, dict_row

from libs.common.contracts.exports import MOST_ROWS, ExportedRows, exported
from libs.common.database import Transaction

ABANDONED_MINUTES: Final = 60
"""An upload that takes longer than this was given up."""


@dataclass(frozen=True)
class File:
    """Times are seconds since the epoch."""

    id: str
    organization_id: str
    user_id: str
    purpose: str
    filename: str
    bytes: int
    created_at: float
    expires_at: float


_COLUMNS: Final = """
    id, organization_id, user_id, purpose, filename, bytes, extract(epoch from created_at)::float8 as created_at,
    extract(epoch from expires_at)::float8 as expires_at
"""


async def insert(
    tx: Transaction, file_id: str, *, organization: str, user_id: str, purpose: str, filename: str, days: int
) -> None:
    """Not shown to anybody before it is complete."""
    await tx.execute(
        """
        insert into files (id, organization_id, user_id, purpose, filename, expires_at)
        values (%s, %s, %s, %s, %s, now() + make_interval(days => %s))
        """,
        [file_id, organization, user_id, purpose, filename, days],
    )


async def hold(tx: Transaction, organization: str) -> None:
    """Until the transaction ends, no other file of this organization becomes complete."""
    await tx.execute("select pg_advisory_xact_lock(hashtext('files ' || %s))", [organization])


async def kept(tx: Transaction, *, complete: bool = False) -> tuple[int, int]:
    """Files and their bytes, of the organization that the transaction works for. ``complete``: only such."""
    rows = await tx.execute(
        "select count(*), coalesce(sum(bytes), 0)::bigint from files where complete or not %s", [complete]
    )
    row = await rows.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


async def add_chunk(tx: Transaction, file: str, organization: str, *, number: int, sealed: bytes, size: int) -> bool:
    """False if the file is gone."""
    rows = await tx.execute("update files set bytes = bytes + %s where id = %s", [size, file])
    if not rows.rowcount:
        return False
    await tx.execute(
        "insert into file_chunks (id, organization_id, file_id, number, sealed) values (%s, %s, %s, %s, %s)",
        [chunk_id(file, number), organization, file, number, sealed],
    )
    return True


def chunk_id(file: str, number: int) -> str:
    return f"{file}.{number}"


async def complete(tx: Transaction, file_id: str) -> File | None:
    """None if the file is gone."""
    async with tx.cursor(row_factory=class_row(File)) as cursor:
        await cursor.execute(f"update files set complete = true where id = %s returning {_COLUMNS}", [file_id])  # noqa: S608
        return await cursor.fetchone()


async def get(tx: Transaction, file_id: str, user_id: str | None) -> File | None:
    """``user_id``: only if it is theirs."""
    async with tx.cursor(row_factory=class_row(File)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from files
            where id = %(id)s and complete and expires_at > now() and (%(user)s::text is null or user_id = %(user)s)
            """,  # noqa: S608  constants
            {"id": file_id, "user": user_id},
        )
        return await cursor.fetchone()


async def some(
    tx: Transaction, user_id: str | None, purpose: str | None, after: str | None, limit: int, *, oldest_first: bool
) -> list[File]:
    order, comes_later = ("asc", ">") if oldest_first else ("desc", "<")
    async with tx.cursor(row_factory=class_row(File)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from files
            where complete and expires_at > now() and (%(user)s::text is null or user_id = %(user)s)
                and (%(purpose)s::text is null or purpose = %(purpose)s)
                and (%(after)s::text is null or (files.created_at, id) {comes_later}
                    (select other.created_at, other.id from files as other where other.id = %(after)s))
            order by files.created_at {order}, id {order} limit %(limit)s
            """,  # noqa: S608  constants
            {"user": user_id, "purpose": purpose, "after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def chunk(tx: Transaction, file_id: str, number: int) -> bytes | None:
    rows = await tx.execute("select sealed from file_chunks where id = %s", [chunk_id(file_id, number)])
    row = await rows.fetchone()
    return bytes(row[0]) if row else None


async def delete(tx: Transaction, file_id: str, user_id: str | None) -> bool:
    """Whether there was such a file. ``user_id``: only if it is theirs."""
    rows = await tx.execute(
        "delete from files where id = %(id)s and (%(user)s::text is null or user_id = %(user)s)",
        {"id": file_id, "user": user_id},
    )
    return bool(rows.rowcount)


async def delete_old(tx: Transaction, most: int) -> int:
    """Expired files and uploads that were given up: how many, at most ``most``."""
    rows = await tx.execute(
        """
        delete from files where id in (
            select id from files where expires_at < now()
                or not complete and created_at < now() - make_interval(mins => %s)
            limit %s
        )
        """,
        [ABANDONED_MINUTES, most],
    )
    return rows.rowcount


async def export(tx: Transaction, user_id: str) -> ExportedRows:
    """As far as the transaction sees them, newest first."""
    async with tx.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            select id, organization_id, purpose, filename, bytes,
                   extract(epoch from files.created_at)::float8 as created_at
            from files where user_id = %s order by files.created_at desc, id limit %s
            """,
            [user_id, MOST_ROWS + 1],
        )
        return exported(await cursor.fetchall())


async def empty(tx: Transaction, user_id: str | None, most: int) -> int:
    """The files of one user, or (None) of the organization that the transaction works for, lose some of their pieces.

    How many, at most ``most``: to delete all pieces of much takes longer than a statement may.
    """
    rows = await tx.execute(
        """
        delete from file_chunks where id in (
            select file_chunks.id from files join file_chunks on file_id = files.id
            where %(user)s::text is null or user_id = %(user)s limit %(most)s
        )
        """,
        {"user": user_id, "most": most},
    )
    return rows.rowcount


async def delete_all(tx: Transaction, user_id: str | None) -> None:
    """Those of ``empty``, with the pieces that are left."""
    await tx.execute(
        "delete from files where %(user)s::text is null or user_id = %(user)s",
        {"user": user_id},
    )
