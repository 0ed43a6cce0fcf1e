"""The SQL of invitations."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from libs.common.contracts.permissions import OPERATING_ORGANIZATION
from libs.common.database import Transaction


@dataclass(frozen=True)
class Invitation:
    id: UUID
    organization_id: str
    email: str
    role: str
    invited_by: UUID
    created_at: datetime
    expires_at: datetime


async def list_invitations(
    tx: Transaction, organization_id: str, after: tuple[datetime | None, UUID | None], limit: int
) -> list[Invitation]:
    """Those that have not expired, newest first."""
    async with tx.cursor(row_factory=class_row(Invitation)) as cursor:
        await cursor.execute(
            """
            select id, organization_id, email, role, invited_by, created_at, expires_at from invitations
            where organization_id = %(organization)s and expires_at > now()
              and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s, %(id)s))
            order by created_at desc, id desc limit %(limit)s
            """,
            {"organization": organization_id, "at": after[0], "id": after[1], "limit": limit},
        )
        return await cursor.fetchall()


async def count_others(tx: Transaction, organization_id: str, email: str) -> int:
    """Open ones for other addresses. Expired ones are deleted on the way."""
    await tx.execute("delete from invitations where organization_id = %s and expires_at <= now()", [organization_id])
    rows = await tx.execute(
        "select count(*) from invitations where organization_id = %s and email <> %s", [organization_id, email]
    )
    row = await rows.fetchone()
    assert row is not None
    return int(row[0])


async def put_invitation(
    tx: Transaction, organization_id: str, email: str, role: str, *, digest: str, invited_by: UUID, days: int
) -> Invitation:
    """In place of the one this address had, whose token is good for nothing from now on."""
    await tx.execute("delete from invitations where organization_id = %s and email = %s", [organization_id, email])
    async with tx.cursor(row_factory=class_row(Invitation)) as cursor:
        await cursor.execute(
            """
            insert into invitations (organization_id, email, role, digest, invited_by, expires_at)
            values (%s, %s, %s, %s, %s, now() + make_interval(days => %s))
            returning id, organization_id, email, role, invited_by, created_at, expires_at
            """,
            [organization_id, email, role, digest, invited_by, days],
        )
        made = await cursor.fetchone()
        assert made is not None
        return made


async def delete_invitation(tx: Transaction, organization_id: str, invitation_id: UUID) -> str | None:
    """The role it was to; None if there is no such one."""
    rows = await tx.execute(
        "delete from invitations where organization_id = %s and id = %s returning role",
        [organization_id, invitation_id],
    )
    row = await rows.fetchone()
    return row[0] if row else None


async def delete_invitations_by(tx: Transaction, inviter: UUID, organization_id: str) -> None:
    """Of who may do less, or nothing, in this organization now. The operating one gave rights in all: all of theirs.

    That takes a transaction that sees ``EVERY_ORGANIZATION``.
    """
    await tx.execute(
        "delete from invitations where invited_by = %s and %s in (organization_id, %s)",
        [inviter, organization_id, OPERATING_ORGANIZATION],
    )


async def redeem_invitation(tx: Transaction, digest: str, email: str) -> Invitation | None:
    """The open one of this token for this address, used up. Of two who come at once, one gets it.

    Not of who has been disabled meanwhile. Locks its organization first, as all do who change members.
    """
    async with tx.cursor(row_factory=class_row(Invitation)) as cursor:
        await cursor.execute(
            """
            with organization as materialized (
                select organizations.id from organizations join invitations on organization_id = organizations.id
                where digest = %(digest)s for no key update of organizations
            )
            delete from invitations using organization
            where organization_id = organization.id and digest = %(digest)s and email = %(email)s
              and expires_at > now()
              and not exists (select from users where users.id = invited_by and disabled_at is not null)
            returning invitations.id, organization_id, email, role, invited_by, created_at, expires_at
            """,
            {"digest": digest, "email": email},
        )
        return await cursor.fetchone()
