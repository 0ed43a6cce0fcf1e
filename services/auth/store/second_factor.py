"""The SQL of second factors: TOTP secrets, recovery codes, and what organizations demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from libs.common.database import Transaction
from libs.common.sealing import Place


@dataclass(frozen=True)
class Totp:
    """``last_counter``: of the last code that was accepted."""

    sealed_secret: bytes
    activated_at: datetime | None
    last_counter: int


@dataclass(frozen=True)
class Policy:
    second_factor_roles: list[str]
    version: int


def place_of(user_id: UUID) -> Place:
    return Place("user_totp", "sealed_secret", str(user_id))


async def totp_of(tx: Transaction, user_id: UUID) -> Totp | None:
    async with tx.cursor(row_factory=class_row(Totp)) as cursor:
        await cursor.execute(
            "select sealed_secret, activated_at, last_counter from user_totp where user_id = %s", [user_id]
        )
        return await cursor.fetchone()


async def offer_totp(tx: Transaction, user_id: UUID, sealed_secret: bytes) -> bool:
    """False if an active one is in the way."""
    rows = await tx.execute(
        """
        insert into user_totp (user_id, sealed_secret) values (%s, %s)
        on conflict (user_id) do update set sealed_secret = excluded.sealed_secret, created_at = now()
        where user_totp.activated_at is null
        """,
        [user_id, sealed_secret],
    )
    return rows.rowcount == 1


async def activate_totp(tx: Transaction, user_id: UUID, sealed_secret: bytes, counter: int) -> bool:
    """False if another request was quicker, or if something else is offered meanwhile."""
    rows = await tx.execute(
        """
        update user_totp set activated_at = now(), last_counter = %s
        where user_id = %s and sealed_secret = %s and activated_at is null
        """,
        [counter, user_id, sealed_secret],
    )
    return rows.rowcount == 1


async def use_counter(tx: Transaction, user_id: UUID, counter: int) -> bool:
    """False if this counter, or a later one, has been used."""
    rows = await tx.execute(
        "update user_totp set last_counter = %s where user_id = %s and last_counter < %s", [counter, user_id, counter]
    )
    return rows.rowcount == 1


async def delete_second_factor(tx: Transaction, user_id: UUID) -> bool:
    """False if there was none."""
    await tx.execute("delete from recovery_codes where user_id = %s", [user_id])
    rows = await tx.execute("delete from user_totp where user_id = %s", [user_id])
    return rows.rowcount == 1


async def replace_recovery_codes(tx: Transaction, user_id: UUID, digests: Sequence[str]) -> None:
    await tx.execute("delete from recovery_codes where user_id = %s", [user_id])
    await tx.execute(
        "insert into recovery_codes (user_id, digest) select %s, unnest(%s::text[])", [user_id, list(digests)]
    )


async def use_recovery_code(tx: Transaction, user_id: UUID, digest: str) -> bool:
    """False if there is no such code, or if it has been used."""
    rows = await tx.execute(
        "update recovery_codes set used_at = now() where user_id = %s and digest = %s and used_at is null",
        [user_id, digest],
    )
    return rows.rowcount == 1


async def count_recovery_codes(tx: Transaction, user_id: UUID) -> int:
    rows = await tx.execute("select count(*) from recovery_codes where user_id = %s and used_at is null", [user_id])
    row = await rows.fetchone()
    assert row is not None
    return int(row[0])


async def policy_of(tx: Transaction, organization_id: str) -> Policy | None:
    async with tx.cursor(row_factory=class_row(Policy)) as cursor:
        await cursor.execute(
            "select second_factor_roles, version from organizations where id = %s and deleted_at is null",
            [organization_id],
        )
        return await cursor.fetchone()


async def update_policy(
    tx: Transaction, organization_id: str, roles: Sequence[str], expected: int | None
) -> Policy | None:
    """None if the organization is not at the expected version, or is not there."""
    async with tx.cursor(row_factory=class_row(Policy)) as cursor:
        await cursor.execute(
            """
            update organizations set second_factor_roles = %(roles)s, version = version + 1
            where id = %(id)s and version = coalesce(%(expected)s, version)
            returning second_factor_roles, version
            """,
            {"id": organization_id, "roles": list(roles), "expected": expected},
        )
        return await cursor.fetchone()
