"""The SQL of sessions."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from libs.common import actor
from libs.common.database import Transaction
from services.auth.store.users import User


@dataclass(frozen=True)
class Session:
    id: UUID
    user_id: UUID
    organization_id: str
    ip: str
    user_agent: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    refresh_digest: str | None


_COLUMNS: Final = """
    id, user_id, organization_id, ip, user_agent, created_at, last_used_at, expires_at, refresh_digest
"""


@dataclass(frozen=True)
class Lifetime:
    """``refresh_days``: since the last refresh. ``session_days``: since the login."""

    refresh_days: int
    session_days: int


@dataclass(frozen=True)
class RefreshDigests:
    """``family`` stays as long as the session, ``current`` is that of the token that works next."""

    family: str
    current: str


async def insert_session(
    tx: Transaction, account: User, digests: RefreshDigests, lifetime: Lifetime, logged_in_at: datetime | None = None
) -> Session | None:
    """By who asks now; None for who is no member any more: a removal waits for this one, and ends it.

    ``logged_in_at``: if that was before, in a session that this one goes on with.
    """
    who = actor.current()
    async with tx.cursor(row_factory=class_row(Session)) as cursor:
        await cursor.execute(
            f"""
            insert into user_sessions (user_id, organization_id, ip, user_agent, refresh_family, refresh_digest,
                                       created_at, expires_at)
            select %(user)s, %(organization)s, %(ip)s, %(agent)s, %(family)s, %(current)s, began,
                   least(now() + make_interval(days => %(refresh_days)s), began + make_interval(days => %(days)s))
            from (
                select coalesce(%(began)s::timestamptz, now()) as began from memberships
                where organization_id = %(organization)s and user_id = %(user)s for key share
            ) as membership
            returning {_COLUMNS}
            """,  # noqa: S608  constants
            {
                "user": account.id,
                "organization": account.organization_id,
                "ip": who.ip,
                "agent": who.user_agent,
                "family": digests.family,
                "current": digests.current,
                "began": logged_in_at,
                "refresh_days": lifetime.refresh_days,
                "days": lifetime.session_days,
            },
        )
        return await cursor.fetchone()


async def use_refresh_token(
    tx: Transaction, used: RefreshDigests, following: str, lifetime: Lifetime
) -> Session | None:
    """The session it belongs to, which from here on takes only ``following``; None if this token does not work."""
    who = actor.current()
    async with tx.cursor(row_factory=class_row(Session)) as cursor:
        await cursor.execute(
            f"""
            update user_sessions set refresh_digest = %(following)s, last_used_at = now(), ip = %(ip)s,
                user_agent = %(agent)s,
                expires_at = least(now() + make_interval(days => %(refresh_days)s),
                                   created_at + make_interval(days => %(days)s))
            where refresh_family = %(family)s and refresh_digest = %(current)s
                and ended_at is null and expires_at > now()
            returning {_COLUMNS}
            """,  # noqa: S608  constants
            {
                "following": following,
                "ip": who.ip,
                "agent": who.user_agent,
                "family": used.family,
                "current": used.current,
                "refresh_days": lifetime.refresh_days,
                "days": lifetime.session_days,
            },
        )
        return await cursor.fetchone()


async def live_session_of_family(tx: Transaction, family: str) -> Session | None:
    async with tx.cursor(row_factory=class_row(Session)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS}
            from user_sessions where refresh_family = %s and ended_at is null and expires_at > now()
            """,  # noqa: S608  constants
            [family],
        )
        return await cursor.fetchone()


async def sessions_of(
    tx: Transaction, user_id: UUID, after: tuple[datetime | None, UUID | None], limit: int
) -> list[Session]:
    """Live ones, newest first."""
    async with tx.cursor(row_factory=class_row(Session)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS}
            from user_sessions
            where user_id = %s and ended_at is null and expires_at > now()
                and (%s::timestamptz is null or (created_at, id) < (%s, %s::uuid))
            order by created_at desc, id desc limit %s
            """,  # noqa: S608  constants
            [user_id, after[0], *after, limit],
        )
        return await cursor.fetchall()


async def end_sessions(
    tx: Transaction, user_id: UUID, *, only: UUID | None = None, but: UUID | None = None
) -> list[UUID]:
    """Those that were live: all of this user that the transaction sees, or only one, or all but one."""
    rows = await tx.execute(
        """
        update user_sessions set ended_at = now()
        where user_id = %(user)s and ended_at is null and expires_at > now()
            and (%(only)s::uuid is null or id = %(only)s) and (%(but)s::uuid is null or id <> %(but)s)
        returning id
        """,
        {"user": user_id, "only": only, "but": but},
    )
    return [session_id for (session_id,) in await rows.fetchall()]


async def end_oldest(tx: Transaction, user_id: UUID, keep: int) -> list[UUID]:
    """Those that have not been used for longest, beyond so many."""
    rows = await tx.execute(
        """
        update user_sessions set ended_at = now() where id in (
            select id from user_sessions where user_id = %s and ended_at is null and expires_at > now()
            order by last_used_at desc, id offset %s
        ) returning id
        """,
        [user_id, keep],
    )
    return [session_id for (session_id,) in await rows.fetchall()]


async def delete_ended(tx: Transaction, after_seconds: float) -> int:
    rows = await tx.execute(
        "delete from user_sessions where least(ended_at, expires_at) < now() - make_interval(secs => %s)",
        [after_seconds],
    )
    return rows.rowcount
