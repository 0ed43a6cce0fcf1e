"""Every SQL statement of auth."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Json

from libs.common.database import Transaction


@dataclass(frozen=True)
class User:
    id: UUID
    organization_id: str
    email: str
    role: str


@dataclass(frozen=True)
class Credentials(User):
    password_hash: str


@dataclass(frozen=True)
class Key:
    id: UUID
    name: str
    prefix: str
    digest: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True)
class KeyOwner(User):
    key_id: UUID


@dataclass(frozen=True)
class SigningKey:
    id: str
    sealed_private_key: bytes
    public_jwk: dict[str, str]


async def credentials_of(tx: Transaction, email: str) -> Credentials | None:
    async with tx.cursor(row_factory=class_row(Credentials)) as cursor:
        await cursor.execute(
            "select id, organization_id, email, role, password_hash from users where email = %s", [email]
        )
        return await cursor.fetchone()


async def has_admin(tx: Transaction) -> bool:
    row = await (await tx.execute("select exists (select from users where role = 'admin')")).fetchone()
    return row is not None and bool(row[0])


async def insert_first_admin(tx: Transaction, email: str, password_hash: str) -> bool:
    """False if there is an admin already; the lock makes replicas that start together wait for each other."""
    await tx.execute("lock table users in share row exclusive mode")
    inserted = await tx.execute(
        """
        insert into users (organization_id, email, password_hash, role)
        select 'default', %s, %s, 'admin'
        where not exists (select from users where role = 'admin')
        """,
        [email, password_hash],
    )
    return inserted.rowcount == 1


async def lock_user(tx: Transaction, user_id: UUID) -> bool:
    """Whether there is such a user. Two transactions that count this user's keys come one after the other."""
    row = await (await tx.execute("select from users where id = %s for no key update", [user_id])).fetchone()
    return row is not None


async def count_keys(tx: Transaction, user_id: UUID) -> int:
    rows = await tx.execute("select count(*) from api_keys where user_id = %s and revoked_at is null", [user_id])
    row = await rows.fetchone()
    assert row is not None
    return int(row[0])


async def insert_key(
    tx: Transaction, user_id: UUID, name: str, *, prefix: str, digest: str, expires_at: datetime | None
) -> Key:
    async with tx.cursor(row_factory=class_row(Key)) as cursor:
        await cursor.execute(
            """
            insert into api_keys (user_id, name, prefix, digest, expires_at) values (%s, %s, %s, %s, %s)
            returning id, name, prefix, digest, created_at, last_used_at, expires_at
            """,
            [user_id, name, prefix, digest, expires_at],
        )
        key = await cursor.fetchone()
        assert key is not None
        return key


async def keys_of(tx: Transaction, user_id: UUID) -> list[Key]:
    """Newest first, without those revoked."""
    async with tx.cursor(row_factory=class_row(Key)) as cursor:
        await cursor.execute(
            """
            select id, name, prefix, digest, created_at, last_used_at, expires_at from api_keys
            where user_id = %s and revoked_at is null order by created_at desc, id
            """,
            [user_id],
        )
        return await cursor.fetchall()


async def revoke_key(tx: Transaction, user_id: UUID, key_id: UUID) -> Key | None:
    """None if this user has no such key; a key revoked before is found again, unchanged."""
    async with tx.cursor(row_factory=class_row(Key)) as cursor:
        await cursor.execute(
            """
            update api_keys set revoked_at = coalesce(revoked_at, now()) where id = %s and user_id = %s
            returning id, name, prefix, digest, created_at, last_used_at, expires_at
            """,
            [key_id, user_id],
        )
        return await cursor.fetchone()


async def owner_of_key(tx: Transaction, digest: str) -> KeyOwner | None:
    """None for keys that are unknown, expired or revoked."""
    async with tx.cursor(row_factory=class_row(KeyOwner)) as cursor:
        await cursor.execute(
            """
            select users.id, organization_id, email, role, api_keys.id as key_id
            from api_keys join users on users.id = user_id
            where digest = %s and revoked_at is null and (expires_at is null or expires_at > now())
            """,
            [digest],
        )
        return await cursor.fetchone()


async def mark_keys_used(tx: Transaction, used: Mapping[UUID, float]) -> None:
    """``used``: key to seconds since the epoch. Replicas report in any order; the latest use stands."""
    await tx.execute(
        """
        update api_keys set last_used_at = greatest(last_used_at, to_timestamp(used.at))
        from unnest(%s::uuid[], %s::float8[]) as used (id, at) where api_keys.id = used.id
        """,
        [list(used.keys()), list(used.values())],
    )


async def newest_signing_key(tx: Transaction) -> SigningKey | None:
    async with tx.cursor(row_factory=class_row(SigningKey)) as cursor:
        await cursor.execute(
            "select id, sealed_private_key, public_jwk from signing_keys order by created_at desc, id limit 1"
        )
        return await cursor.fetchone()


async def insert_first_signing_key(tx: Transaction, key: SigningKey) -> SigningKey:
    """The key that all replicas use: this one, or that of the replica that was quicker."""
    await tx.execute("lock table signing_keys in share row exclusive mode")
    existing = await newest_signing_key(tx)
    if existing is not None:
        return existing
    await tx.execute(
        "insert into signing_keys (id, sealed_private_key, public_jwk) values (%s, %s, %s)",
        [key.id, key.sealed_private_key, Json(key.public_jwk)],
    )
    return key


async def public_keys(tx: Transaction) -> list[dict[str, str]]:
    rows = await tx.execute("select public_jwk from signing_keys order by created_at desc, id")
    return [jwk for (jwk,) in await rows.fetchall()]
