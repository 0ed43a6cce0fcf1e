"""The SQL of the audit log."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, LiteralString

from psycopg import sql
from psycopg.rows import class_row

from libs.common.database import Transaction

FETCH: Final = 1000


@dataclass(frozen=True)
class Entry:
    """A row of the log. ``before`` and ``after``: JSON, as the text that is stored."""

    seq: int
    recorded_at: datetime
    event_id: str
    at: datetime
    service: str
    action: str
    object: str
    organization_id: str
    user_id: str
    key_id: str
    session_id: str
    ip: str
    user_agent: str
    request_id: str
    before: str | None
    after: str | None
    previous: bytes
    hash: bytes


@dataclass(frozen=True)
class Head:
    """Where the chain ends."""

    seq: int
    recorded_at: datetime
    hash: bytes
    signature: bytes = b""


@dataclass(frozen=True)
class Archive:
    """A stretch of the chain that was written to ``file`` and dropped."""

    first_seq: int
    last_seq: int
    last_hash: bytes
    file: str
    file_sha256: bytes
    archived_at: datetime
    signature: bytes = b""


@dataclass(frozen=True)
class Span:
    """What a partition holds."""

    first_seq: int
    last_seq: int


async def lock_head(tx: Transaction) -> Head | None:
    """Until the transaction ends, nobody else appends."""
    async with tx.cursor(row_factory=class_row(Head)) as cursor:
        await cursor.execute("select seq, recorded_at, hash, signature from audit_head for update")
        return await cursor.fetchone()


async def head(tx: Transaction) -> Head | None:
    async with tx.cursor(row_factory=class_row(Head)) as cursor:
        await cursor.execute("select seq, recorded_at, hash, signature from audit_head")
        return await cursor.fetchone()


async def put_head(tx: Transaction, head: Head) -> None:
    await tx.execute(
        """
        insert into audit_head (seq, recorded_at, hash, signature)
        values (%(seq)s, %(recorded_at)s, %(hash)s, %(signature)s)
        on conflict (one) do update set
            seq = excluded.seq, recorded_at = excluded.recorded_at, hash = excluded.hash, signature = excluded.signature
        """,
        vars(head),
    )


async def last_seq(tx: Transaction) -> int:
    """0 for an empty log."""
    row = await (await tx.execute("select coalesce(max(seq), 0) from audit_log")).fetchone()
    assert row is not None
    return int(row[0])


async def hash_of(tx: Transaction, seq: int) -> bytes | None:
    """None if there is no such row, or none any more."""
    row = await (await tx.execute("select hash from audit_log where seq = %s limit 1", [seq])).fetchone()
    return None if row is None else bytes(row[0])


async def known_events(tx: Transaction, event_ids: Sequence[str], since: datetime) -> set[str]:
    """Those of ``event_ids`` that were recorded ``since``: only partitions from then on are looked at."""
    rows = await tx.execute(
        "select event_id from audit_log where event_id = any(%s) and recorded_at >= %s", [list(event_ids), since]
    )
    return {event_id for (event_id,) in await rows.fetchall()}


async def insert_entries(tx: Transaction, entries: Sequence[Entry]) -> None:
    async with tx.cursor() as cursor:
        await cursor.executemany(
            """
            insert into audit_log (
                seq, recorded_at, event_id, at, service, action, object, organization_id, user_id, key_id, session_id,
                ip, user_agent, request_id, before, after, previous, hash
            ) values (
                %(seq)s, %(recorded_at)s, %(event_id)s, %(at)s, %(service)s, %(action)s, %(object)s,
                %(organization_id)s, %(user_id)s, %(key_id)s, %(session_id)s, %(ip)s, %(user_agent)s, %(request_id)s,
                %(before)s::text::json, %(after)s::text::json, %(previous)s, %(hash)s
            )
            """,
            [vars(entry) for entry in entries],
        )


_ENTRY: Final[LiteralString] = """
    select seq, recorded_at, event_id, at, service, action, object, organization_id, user_id, key_id, session_id, ip,
        user_agent, request_id, before::text as before, after::text as after, previous, hash
    from audit_log
"""


async def entries(
    tx: Transaction,
    *,
    after: int | None = None,
    to: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> AsyncIterator[Entry]:
    """In the order of the chain, a few at a time, however many there are.

    ``after`` is excluded, ``to`` included; ``since`` included, ``until`` excluded.
    """
    async with tx.cursor("audit_entries", row_factory=class_row(Entry)) as cursor:
        cursor.itersize = FETCH
        await cursor.execute(
            _ENTRY
            + """
            where (%(after)s::bigint is null or seq > %(after)s) and (%(to)s::bigint is null or seq <= %(to)s)
                and (%(since)s::timestamptz is null or at >= %(since)s)
                and (%(until)s::timestamptz is null or at < %(until)s)
            order by seq
            """,
            {"after": after, "to": to, "since": since, "until": until},
        )
        async for entry in cursor:
            yield entry


_CONDITIONS: Final[dict[str, LiteralString]] = {
    "since": "at >= %(since)s",
    "until": "at < %(until)s",
    "organization_id": "organization_id = %(organization_id)s",
    "user_id": "user_id = %(user_id)s",
    "action": "action = %(action)s",
    "action_prefix": "starts_with(action, %(action_prefix)s)",
    "object": "object = %(object)s",
    "request_id": "request_id = %(request_id)s",
    "ip": "ip = %(ip)s",
    "before": "seq < %(before)s",
    "after": "seq > %(after)s",
}
"""Only those that are asked for, so that each has the plan it needs."""


async def newest_entries(tx: Transaction, wanted: Mapping[str, object], limit: int) -> list[Entry]:
    """``wanted``: values for some of ``_CONDITIONS``."""
    return await _entries(tx, wanted, "order by seq desc", limit)


async def oldest_entries(tx: Transaction, wanted: Mapping[str, object], limit: int) -> list[Entry]:
    return await _entries(tx, wanted, "order by seq", limit)


async def _entries(tx: Transaction, wanted: Mapping[str, object], order: LiteralString, limit: int) -> list[Entry]:
    conditions = sql.SQL(" and ").join(sql.SQL(_CONDITIONS[name]) for name in wanted)
    statement = sql.SQL("{} where {} {} limit %(limit)s").format(sql.SQL(_ENTRY), conditions, sql.SQL(order))
    async with tx.cursor(row_factory=class_row(Entry)) as cursor:
        await cursor.execute(statement, {**wanted, "limit": limit})
        return await cursor.fetchall()


async def archives(tx: Transaction) -> list[Archive]:
    """Until the transaction ends, no more is archived."""
    await tx.execute("lock table audit_log in access share mode")
    async with tx.cursor(row_factory=class_row(Archive)) as cursor:
        await cursor.execute(
            """
            select first_seq, last_seq, last_hash, file, file_sha256, archived_at, signature
            from audit_archives order by first_seq
            """
        )
        return await cursor.fetchall()


async def insert_archive(tx: Transaction, archive: Archive) -> None:
    await tx.execute(
        """
        insert into audit_archives (first_seq, last_seq, last_hash, file, file_sha256, archived_at, signature) values (
            %(first_seq)s, %(last_seq)s, %(last_hash)s, %(file)s, %(file_sha256)s, %(archived_at)s, %(signature)s
        )
        """,
        vars(archive),
    )


async def partitions(tx: Transaction) -> list[date]:
    """Their months, by first day, oldest first."""
    rows = await tx.execute(
        """
        select to_date(right(relname, 7), 'YYYY_MM') from pg_inherits join pg_class on pg_class.oid = inhrelid
        where inhparent = 'audit_log'::regclass order by 1
        """
    )
    return [month for (month,) in await rows.fetchall()]


async def span_of(tx: Transaction, month: date) -> Span | None:
    """None: nothing."""
    rows = await tx.execute(
        """
        select min(seq), max(seq) from audit_log
        where recorded_at >= %(month)s::timestamp at time zone 'UTC'
            and recorded_at < (%(month)s::timestamp + interval '1 month') at time zone 'UTC'
        """,
        {"month": month},
    )
    row = await rows.fetchone()
    assert row is not None
    return None if row[0] is None else Span(*row)


async def hold_archiving(tx: Transaction) -> bool:
    """Whether nobody else does it; nobody will until the transaction ends."""
    rows = await tx.execute("select pg_try_advisory_xact_lock(hashtext('archiving of auth.audit_log'))")
    row = await rows.fetchone()
    return row is not None and bool(row[0])


async def lock_for_dropping(tx: Transaction) -> None:
    """Everybody else waits for us, so we wait for nobody. Raises ``OperationalError`` if somebody reads for long."""
    await tx.execute("set local lock_timeout = '2s'")
    await tx.execute("lock table audit_log in access exclusive mode")


async def drop_partition(tx: Transaction, month: date) -> None:
    name = sql.Identifier(f"audit_log_{month:%Y_%m}")
    await tx.execute(sql.SQL("alter table audit_log detach partition {}").format(name))
    await tx.execute(sql.SQL("drop table {}").format(name))


async def make_partition(tx: Transaction, month: date) -> None:
    """Of the month that begins on this day; nothing if it is there."""
    await tx.execute("call make_audit_partition(%s)", [month])


async def lock_key(tx: Transaction) -> bytes | None:
    """The sealed key of the chain. Replicas that start together come one after the other."""
    await tx.execute("lock table audit_key in share row exclusive mode")
    return await sealed_key(tx)


async def sealed_key(tx: Transaction) -> bytes | None:
    row = await (await tx.execute("select sealed_key from audit_key")).fetchone()
    return None if row is None else bytes(row[0])


async def insert_key(tx: Transaction, sealed_key: bytes) -> None:
    await tx.execute("insert into audit_key (sealed_key) values (%s)", [sealed_key])
