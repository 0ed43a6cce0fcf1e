"""The SQL of stored responses: kept after their answer, or before it and claimed by a gateway."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import NAMESPACE_OID, uuid5

from psycopg.rows import class_row, dict_row

from libs.common.contracts.exports import MOST_ROWS, ExportedRows, exported
from libs.common.database import Transaction

_COLUMNS: Final = """
    responses.id, organization_id, user_id, key_id, previous_id, background, streams, status, sealed_request,
    sealed_response, extract(epoch from responses.created_at)::float8 as created_at,
    extract(epoch from deadline_at)::float8 as deadline_at, tries, losses
"""


@dataclass(frozen=True)
class StoredResponse:
    """Times are seconds since the epoch."""

    id: str
    organization_id: str
    user_id: str
    key_id: str | None
    previous_id: str | None
    background: bool
    streams: bool
    status: str
    sealed_request: bytes
    sealed_response: bytes | None
    created_at: float
    deadline_at: float
    tries: int
    losses: int

    @property
    def request_id(self) -> str:
        """The same for every gateway: who takes it over follows what runs already."""
        return uuid5(NAMESPACE_OID, f"{self.id}/{self.tries}").hex

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "in_progress")


async def insert(tx: Transaction, response: StoredResponse, days: int) -> None:
    """``days``: how long it is kept. One that is there stays: a line of a batch may be answered by two gateways."""
    await tx.execute(
        """
        insert into responses (id, organization_id, user_id, key_id, previous_id, background, streams, status,
                               sealed_request, sealed_response, created_at, expires_at, deadline_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, to_timestamp(%s), now() + make_interval(days => %s),
                to_timestamp(%s)) on conflict do nothing
        """,
        [
            response.id, response.organization_id, response.user_id, response.key_id, response.previous_id,
            response.background, response.streams, response.status, response.sealed_request, response.sealed_response,
            response.created_at, days, response.deadline_at,
        ],
    )  # fmt: skip


async def open_count(tx: Transaction, organization: str) -> int:
    """Of the organization that the transaction works for. Until it ends, nobody else counts them to begin another."""
    await tx.execute("select pg_advisory_xact_lock(hashtext('responses ' || %s))", [organization])
    rows = await tx.execute("select count(*) from responses where status in ('queued', 'in_progress')")
    row = await rows.fetchone()
    assert row is not None
    return int(row[0])


async def get(tx: Transaction, response_id: str, user_id: str | None) -> StoredResponse | None:
    """``user_id``: only if it is theirs."""
    async with tx.cursor(row_factory=class_row(StoredResponse)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from responses
            where id = %(id)s and expires_at > now() and (%(user)s::text is null or user_id = %(user)s)
            """,  # noqa: S608  constants
            {"id": response_id, "user": user_id},
        )
        return await cursor.fetchone()


async def chain(
    tx: Transaction, response_id: str, user_id: str | None, most: int, most_bytes: int
) -> list[StoredResponse]:
    """It and those that it went on from, the latest first; as ``get``. ``most_bytes``: of all but the last of them."""
    async with tx.cursor(row_factory=class_row(StoredResponse)) as cursor:
        await cursor.execute(
            f"""
            with recursive chain as (
                select id as link, previous_id as earlier, 1 as depth, bytes as total from responses where id = %(id)s
                union all
                select id, previous_id, depth + 1, total + bytes from responses join chain on id = earlier
                where depth < %(most)s and total < %(most_bytes)s
            )
            select {_COLUMNS} from responses join chain on id = link
            where expires_at > now() and (%(user)s::text is null or user_id = %(user)s) order by depth
            """,  # noqa: S608  constants
            {"id": response_id, "user": user_id, "most": most, "most_bytes": most_bytes},
        )
        return await cursor.fetchall()


async def frames(tx: Transaction, response_id: str) -> bytes | None:
    rows = await tx.execute("select sealed_frames from responses where id = %s", [response_id])
    row = await rows.fetchone()
    return row[0] if row else None


async def delete(tx: Transaction, response_id: str, user_id: str | None) -> bool:
    rows = await tx.execute(
        "delete from responses where id = %(id)s and (%(user)s::text is null or user_id = %(user)s)",
        {"id": response_id, "user": user_id},
    )
    return bool(rows.rowcount)


async def claim(tx: Transaction, by: str, seconds: float, not_of: Collection[str]) -> StoredResponse | None:
    """The next one of the organization that has the fewest under way. ``not_of``: organizations."""
    async with tx.cursor(row_factory=class_row(StoredResponse)) as cursor:
        await cursor.execute(
            f"""
            with busy as (
                select organization_id, count(*) as under_way from responses
                where status = 'in_progress' and claimed_until > now() group by 1
            ), next as (
                select responses.id from responses left join busy using (organization_id)
                where status in ('queued', 'in_progress') and claimed_until <= now() and waits_until <= now()
                    and not organization_id = any(%s)
                order by coalesce(under_way, 0), created_at limit 1 for update of responses skip locked
            )
            update responses set status = 'in_progress', claimed_until = now() + make_interval(secs => %s),
                                 claimed_by = %s
            from next where responses.id = next.id returning {_COLUMNS}
            """,  # noqa: S608  constants
            [list(not_of), seconds, by],
        )
        return await cursor.fetchone()


async def keep_claims(tx: Transaction, by: str, ids: Sequence[str], seconds: float) -> None:
    await tx.execute(
        """
        update responses set claimed_until = now() + make_interval(secs => %s)
        where id = any(%s) and claimed_by = %s and status = 'in_progress'
        """,
        [seconds, list(ids), by],
    )


async def stopped(tx: Transaction, ids: Sequence[str]) -> set[str]:
    """Those that are cancelled, deleted, or answered already."""
    rows = await tx.execute(
        "select id from responses where id = any(%s) and status in ('queued', 'in_progress')", [list(ids)]
    )
    return set(ids) - {row[0] for row in await rows.fetchall()}


async def give_back(
    tx: Transaction, by: str, response: StoredResponse, *, wait: float, lost: bool, asked: bool
) -> None:
    """Whoever claims it next, after ``wait`` seconds, asks for one try more; for the same if not ``asked``."""
    await tx.execute(
        """
        update responses set status = 'queued', claimed_until = now(), waits_until = now() + make_interval(secs => %s),
                             tries = %s, losses = %s
        where id = %s and claimed_by = %s and status = 'in_progress'
        """,
        [wait, response.tries + asked, response.losses + lost, response.id, by],
    )


async def finish(
    tx: Transaction, response_id: str, status: str, sealed_response: bytes, sealed_frames: bytes | None
) -> bool:
    """False if it has ended already, or is gone."""
    rows = await tx.execute(
        """
        update responses set status = %s, sealed_response = %s, sealed_frames = %s
        where id = %s and status in ('queued', 'in_progress')
        """,
        [status, sealed_response, sealed_frames, response_id],
    )
    return bool(rows.rowcount)


async def cancel(tx: Transaction, response_id: str) -> None:
    """Nothing happens if it has ended."""
    await tx.execute(
        "update responses set status = 'cancelled' where id = %s and status in ('queued', 'in_progress')", [response_id]
    )


async def delete_old(tx: Transaction, most: int) -> int:
    """Of those whose time is over: how many were deleted, at most ``most``."""
    rows = await tx.execute(
        """
        delete from responses where id in (
            select id from responses where expires_at <= now() and status not in ('queued', 'in_progress') limit %s
        )
        """,
        [most],
    )
    return rows.rowcount


async def delete_beyond(tx: Transaction, most_bytes: int, most: int) -> int:
    """The oldest that have ended of each organization that keeps more than ``most_bytes``: at most ``most`` at once."""
    rows = await tx.execute(
        """
        with measured as (
            select id, status, sum(bytes) over (partition by organization_id order by created_at desc, id) as total
            from responses
        )
        delete from responses where id in (
            select id from measured where total > %s and status not in ('queued', 'in_progress') limit %s
        )
        """,
        [most_bytes, most],
    )
    return rows.rowcount


async def delete_some(tx: Transaction, user_id: str | None, most: int) -> int:
    """Of one user, or (None) of the organization that the transaction works for."""
    rows = await tx.execute(
        """
        delete from responses where id in (
            select id from responses where %(user)s::text is null or user_id = %(user)s limit %(most)s
        )
        """,
        {"user": user_id, "most": most},
    )
    return rows.rowcount


async def export(tx: Transaction, user_id: str) -> ExportedRows:
    """As far as the transaction sees them, newest first."""
    async with tx.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            select id, organization_id, key_id, status, bytes,
                   extract(epoch from responses.created_at)::float8 as created_at
            from responses where user_id = %s order by responses.created_at desc, id limit %s
            """,
            [user_id, MOST_ROWS + 1],
        )
        return exported(await cursor.fetchall())
