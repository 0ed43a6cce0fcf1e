"""The SQL of members."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from libs.common.database import Transaction
from services.auth.store.invitations import delete_invitations_by


@dataclass(frozen=True)
class Member:
    user_id: UUID
    email: str
    role: str
    joined_at: datetime
    disabled: bool
    version: int


async def member_of_id(tx: Transaction, organization_id: str, user_id: UUID) -> Member | None:
    async with tx.cursor(row_factory=class_row(Member)) as cursor:
        await cursor.execute(
            """
            select user_id, email, memberships.role, memberships.created_at as joined_at,
                   disabled_at is not null as disabled, memberships.version
            from memberships join users on users.id = user_id
            where memberships.organization_id = %s and user_id = %s
            """,
            [organization_id, user_id],
        )
        return await cursor.fetchone()


async def list_members(
    tx: Transaction, organization_id: str, role: str, after: tuple[datetime | None, UUID | None], limit: int
) -> list[Member]:
    """Newest first. ``role``: only those who have it; empty for all."""
    async with tx.cursor(row_factory=class_row(Member)) as cursor:
        await cursor.execute(
            """
            select user_id, email, memberships.role, memberships.created_at as joined_at,
                   disabled_at is not null as disabled, memberships.version
            from memberships join users on users.id = user_id
            where memberships.organization_id = %(organization)s
              and (%(role)s = '' or memberships.role = %(role)s)
              and (%(at)s::timestamptz is null or (memberships.created_at, user_id) < (%(at)s, %(id)s))
            order by memberships.created_at desc, user_id desc limit %(limit)s
            """,
            {"organization": organization_id, "role": role, "at": after[0], "id": after[1], "limit": limit},
        )
        return await cursor.fetchall()


async def user_of_email(tx: Transaction, email: str) -> UUID | None:
    row = await (await tx.execute("select id from users where email = %s", [email])).fetchone()
    return row[0] if row else None


async def is_member(tx: Transaction, organization_id: str, email: str) -> bool:
    rows = await tx.execute(
        """
        select exists (select from memberships join users on users.id = user_id
                       where memberships.organization_id = %s and email = %s)
        """,
        [organization_id, email],
    )
    row = await rows.fetchone()
    return row is not None and bool(row[0])


async def insert_member(tx: Transaction, organization_id: str, user_id: UUID, role: str) -> bool:
    """False for who is a member already."""
    inserted = await tx.execute(
        "insert into memberships (organization_id, user_id, role) values (%s, %s, %s) on conflict do nothing",
        [organization_id, user_id, role],
    )
    return inserted.rowcount > 0


async def set_role(tx: Transaction, organization_id: str, user_id: UUID, role: str) -> None:
    """Invitations to roles that they might not give any more are withdrawn: see ``delete_invitations_by``."""
    await delete_invitations_by(tx, user_id, organization_id)
    await tx.execute(
        "update memberships set role = %s, version = version + 1 where organization_id = %s and user_id = %s",
        [role, organization_id, user_id],
    )


async def has_active_admin(tx: Transaction, organization_id: str) -> bool:
    rows = await tx.execute(
        """
        select exists (select from memberships join users on users.id = user_id
                       where memberships.organization_id = %s and memberships.role = 'admin' and disabled_at is null)
        """,
        [organization_id],
    )
    row = await rows.fetchone()
    return row is not None and bool(row[0])


async def delete_member(tx: Transaction, organization_id: str, user_id: UUID) -> None:
    """With the keys and sessions of theirs here, which would be good again with the next membership, and invitations.

    The account first, as logins lock it; then the membership, which who makes a key or session meanwhile has locked. An
    account that belongs to nothing now is deleted; that takes a transaction that sees ``EVERY_ORGANIZATION``.
    """
    member = {"organization": organization_id, "user": user_id}
    for statement in (
        "select from users where id = %(user)s for no key update",
        "delete from memberships where organization_id = %(organization)s and user_id = %(user)s",
        """
        update api_keys set revoked_at = now(), version = version + 1
        where organization_id = %(organization)s and user_id = %(user)s and revoked_at is null
        """,
        """
        update user_sessions set ended_at = now()
        where organization_id = %(organization)s and user_id = %(user)s and ended_at is null
        """,
    ):
        await tx.execute(statement, member)
    await delete_invitations_by(tx, user_id, organization_id)
    await leave_home(tx, organization_id)


async def leave_home(tx: Transaction, organization_id: str) -> None:
    """Users whose logins led to this organization, which they no longer belong to: to another of theirs, or deleted.

    Nothing, unless the transaction sees the memberships of ``EVERY_ORGANIZATION``.
    """
    await tx.execute(
        """
        update users set organization_id = (
            select organization_id from memberships where user_id = users.id order by created_at limit 1
        )
        where organization_id = %(organization)s and exists (select from memberships where user_id = users.id)
          and not exists (select from memberships as home where user_id = users.id
                          and home.organization_id = %(organization)s)
        """,
        {"organization": organization_id},
    )
    await tx.execute(
        """
        delete from users where organization_id = %s and sees('*')
          and not exists (select from memberships where user_id = users.id)
        """,
        [organization_id],
    )
