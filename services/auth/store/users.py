"""The SQL of users."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.rows import class_row

from libs.common.database import Transaction


@dataclass(frozen=True)
class User:
    """``organization_id``: the one a login leads to if it names none."""

    id: UUID
    organization_id: str
    email: str


@dataclass(frozen=True)
class Credentials(User):
    """``may_enter``: not disabled, and a member of some organization that the transaction sees."""

    password_hash: str
    may_enter: bool
    version: int


@dataclass(frozen=True)
class Account(User):
    """A user in one organization. ``version``: of the user and the membership together, both of which only grow."""

    name: str
    role: str
    disabled_at: datetime | None
    created_at: datetime
    version: int


async def credentials_of(tx: Transaction, email: str) -> Credentials | None:
    async with tx.cursor(row_factory=class_row(Credentials)) as cursor:
        await cursor.execute(
            """
            select id, organization_id, email, password_hash, version,
                   disabled_at is null and exists (select from memberships where user_id = users.id) as may_enter
            from users where email = %s
            """,
            [email],
        )
        return await cursor.fetchone()


_ACCOUNT: Final = """
    select users.id, role.organization_id, email, name, role.role, disabled_at, users.created_at,
           users.version + role.version as version
    from users join memberships as role on role.user_id = users.id
"""


async def accounts_of(tx: Transaction, user_id: UUID) -> list[Account]:
    """In each organization the transaction sees, the user's own first, then by how long."""
    async with tx.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute(
            _ACCOUNT
            + """
            where users.id = %s
            order by role.organization_id = users.organization_id desc, role.created_at, role.organization_id
            """,
            [user_id],
        )
        return await cursor.fetchall()


async def account_of(tx: Transaction, organization_id: str, user_id: UUID) -> Account | None:
    """None for who is no member."""
    async with tx.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute(
            _ACCOUNT
            + """
            where users.id = %s and role.organization_id = %s
            """,
            [user_id, organization_id],
        )
        return await cursor.fetchone()


async def list_accounts(
    tx: Transaction,
    organization_id: str,
    *,
    email: str,
    role: str,
    after: tuple[datetime | None, UUID | None],
    limit: int,
) -> list[Account]:
    """Newest first. ``email``: what addresses contain; ``role``: theirs; empty: all."""
    async with tx.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute(
            _ACCOUNT
            + """
            where role.organization_id = %(organization)s
                and position(%(email)s in email) > 0 and (%(role)s = '' or role.role = %(role)s)
                and (%(at)s::timestamptz is null or (users.created_at, users.id) < (%(at)s, %(id)s::uuid))
            order by users.created_at desc, users.id desc limit %(limit)s
            """,
            {
                "organization": organization_id,
                "email": email,
                "role": role,
                "at": after[0],
                "id": after[1],
                "limit": limit,
            },
        )
        return await cursor.fetchall()


async def insert_user(tx: Transaction, organization_id: str, email: str, name: str, password_hash: str) -> UUID | None:
    """None if the address has an account."""
    rows = await tx.execute(
        """
        insert into users (organization_id, email, name, password_hash) values (%s, %s, %s, %s)
        on conflict (email) do nothing returning id
        """,
        [organization_id, email, name, password_hash],
    )
    row = await rows.fetchone()
    return row[0] if row else None


async def update_user(
    tx: Transaction,
    user_id: UUID,
    *,
    name: str | None = None,
    email: str | None = None,
    password_hash: str | None = None,
    disabled: bool | None = None,
) -> bool:
    """What is None stays. False if another account has this address."""
    try:
        async with tx.transaction():
            await tx.execute(
                """
                update users set name = coalesce(%(name)s, name), email = coalesce(%(email)s, email),
                    password_hash = coalesce(%(hash)s, password_hash), version = version + 1,
                    disabled_at = case %(disabled)s::boolean when true then coalesce(disabled_at, now())
                                       when false then null else disabled_at end
                where id = %(id)s
                """,
                {"id": user_id, "name": name, "email": email, "hash": password_hash, "disabled": disabled},
            )
    except UniqueViolation:
        return False
    return True


async def rehash(tx: Transaction, user_id: UUID, old: str, new: str) -> None:
    """The same password under another hash, unless it was changed meanwhile. No change that anybody need see."""
    await tx.execute("update users set password_hash = %s where id = %s and password_hash = %s", [new, user_id, old])


async def has_admin(tx: Transaction, organization: str) -> bool:
    rows = await tx.execute(
        "select exists (select from memberships where organization_id = %s and role = 'admin')", [organization]
    )
    row = await rows.fetchone()
    return row is not None and bool(row[0])


async def insert_first_admin(tx: Transaction, organization: str, email: str, password_hash: str) -> UUID | None:
    """None if there is an admin already; the lock makes replicas that start together wait for each other.

    An account of this address is taken over, with this password.
    """
    await tx.execute("lock table memberships in share row exclusive mode")
    if await has_admin(tx, organization):
        return None
    rows = await tx.execute(
        """
        with admin as (
            insert into users (organization_id, email, password_hash) values (%(organization)s, %(email)s, %(hash)s)
            on conflict (email) do update set organization_id = excluded.organization_id, disabled_at = null,
                password_hash = excluded.password_hash, version = users.version + 1
            returning id
        )
        insert into memberships (organization_id, user_id, role) select %(organization)s, id, 'admin' from admin
        on conflict (organization_id, user_id) do update set role = 'admin', version = memberships.version + 1
        returning user_id
        """,
        {"organization": organization, "email": email, "hash": password_hash},
    )
    row = await rows.fetchone()
    return row[0] if row else None


async def lock_unchanged(tx: Transaction, user_id: UUID, version: int) -> bool:
    """Whether the user is as it was read; stays so until the transaction ends."""
    rows = await tx.execute("select from users where id = %s and version = %s for no key update", [user_id, version])
    return await rows.fetchone() is not None


async def lock_out(tx: Transaction, user_id: UUID) -> None:
    """No session of this user starts until the transaction ends; those that were starting have."""
    await tx.execute("select from users where id = %s for update", [user_id])


async def lock_user(tx: Transaction, user_id: UUID) -> None:
    """Nobody else changes the account until the transaction ends."""
    await tx.execute("select from users where id = %s for no key update", [user_id])
