"""The SQL of organizations."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from libs.common.database import Transaction
from services.auth.store.members import leave_home


@dataclass(frozen=True)
class Organization:
    id: str
    name: str
    description: str
    store_prompts: bool
    weight: float
    created_at: datetime
    version: int


async def lock_organization(tx: Transaction, organization_id: str) -> bool:
    """Whether there is such a one."""
    rows = await tx.execute(
        "select from organizations where id = %s and deleted_at is null for no key update", [organization_id]
    )
    return await rows.fetchone() is not None


async def organization_of_id(tx: Transaction, organization_id: str) -> Organization | None:
    async with tx.cursor(row_factory=class_row(Organization)) as cursor:
        await cursor.execute(
            """
            select id, name, description, store_prompts, weight, created_at, version from organizations
            where id = %s and deleted_at is null
            """,
            [organization_id],
        )
        return await cursor.fetchone()


async def list_organizations(
    tx: Transaction, member: UUID | None, only: str | None, after: tuple[datetime | None, str | None], limit: int
) -> list[Organization]:
    """Newest first: those ``member`` belongs to, or just ``only``; None for all."""
    async with tx.cursor(row_factory=class_row(Organization)) as cursor:
        await cursor.execute(
            """
            select id, name, description, store_prompts, weight, created_at, version from organizations
            where deleted_at is null
              and (%(member)s::uuid is null
                   or id in (select organization_id from memberships where user_id = %(member)s))
              and (%(only)s::text is null or id = %(only)s)
              and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s, %(id)s))
            order by created_at desc, id desc limit %(limit)s
            """,
            {"member": member, "only": only, "at": after[0], "id": after[1], "limit": limit},
        )
        return await cursor.fetchall()


async def insert_organization(
    tx: Transaction, organization_id: str | None, name: str, description: str, *, store_prompts: bool, weight: float
) -> Organization | None:
    """None if the id is taken, perhaps by a deleted one."""
    async with tx.cursor(row_factory=class_row(Organization)) as cursor:
        await cursor.execute(
            """
            insert into organizations (id, name, description, store_prompts, weight)
            values (coalesce(%s, gen_random_uuid()::text), %s, %s, %s, %s)
            on conflict do nothing
            returning id, name, description, store_prompts, weight, created_at, version
            """,
            [organization_id, name, description, store_prompts, weight],
        )
        return await cursor.fetchone()


async def update_organization(
    tx: Transaction, organization_id: str, name: str, description: str, *, store_prompts: bool, weight: float
) -> Organization:
    async with tx.cursor(row_factory=class_row(Organization)) as cursor:
        await cursor.execute(
            """
            update organizations
            set name = %s, description = %s, store_prompts = %s, weight = %s, version = version + 1 where id = %s
            returning id, name, description, store_prompts, weight, created_at, version
            """,
            [name, description, store_prompts, weight, organization_id],
        )
        updated = await cursor.fetchone()
        assert updated is not None
        return updated


async def delete_organization(tx: Transaction, organization_id: str) -> None:
    """Its row stays, so that the id is never given again; its keys, sessions, people, roles and invitations go."""
    for statement in (
        "update organizations set deleted_at = now(), version = version + 1 where id = %s",
        "delete from memberships where organization_id = %s",
        "update api_keys set revoked_at = now() where organization_id = %s and revoked_at is null",
        "update user_sessions set ended_at = now() where organization_id = %s and ended_at is null",
        "delete from invitations where organization_id = %s",
        "delete from roles where organization_id = %s",
    ):
        await tx.execute(statement, [organization_id])
    await leave_home(tx, organization_id)
