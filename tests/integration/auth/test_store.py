import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from libs.common.database import Database
from services.auth import store
from services.auth.store import Key, SigningKey

DIGEST = "d" * 64


@pytest.fixture
async def user_id(auth_db: Database) -> UUID:
    async with auth_db.transaction() as tx:
        assert await store.insert_first_admin(tx, "a@b", "hash")
        user = await store.credentials_of(tx, "a@b")
        assert user is not None
        return user.id


async def a_key(db: Database, user_id: UUID, digest: str = DIGEST, expires_at: datetime | None = None) -> Key:
    async with db.transaction() as tx:
        return await store.insert_key(tx, user_id, "laptop", prefix="omx_abc", digest=digest, expires_at=expires_at)


async def test_replicas_that_start_together_make_one_admin(auth_db: Database) -> None:
    async def create(number: int) -> bool:
        async with auth_db.transaction() as tx:
            return await store.insert_first_admin(tx, f"admin{number}@b", "hash")

    assert sum(await asyncio.gather(*(create(number) for number in range(5)))) == 1
    async with auth_db.transaction() as tx:
        assert await store.has_admin(tx)


async def test_replicas_that_start_together_agree_on_a_signing_key(auth_db: Database) -> None:
    async def insert(number: int) -> SigningKey:
        async with auth_db.transaction() as tx:
            return await store.insert_first_signing_key(tx, SigningKey(f"k{number}", b"sealed", {"kid": f"k{number}"}))

    keys = await asyncio.gather(*(insert(number) for number in range(5)))
    assert len({key.id for key in keys}) == 1
    async with auth_db.transaction() as tx:
        assert await store.public_keys(tx) == [keys[0].public_jwk]
        assert await store.newest_signing_key(tx) == keys[0]


async def test_the_owner_of_a_key(auth_db: Database, user_id: UUID) -> None:
    key = await a_key(auth_db, user_id)
    async with auth_db.transaction() as tx:
        owner = await store.owner_of_key(tx, DIGEST)
        assert await store.owner_of_key(tx, "e" * 64) is None
    assert owner is not None
    assert (owner.key_id, owner.id, owner.organization_id, owner.role) == (key.id, user_id, "default", "admin")


async def test_an_expired_key_has_no_owner(auth_db: Database, user_id: UUID) -> None:
    await a_key(auth_db, user_id, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    async with auth_db.transaction() as tx:
        assert await store.owner_of_key(tx, DIGEST) is None


async def test_a_revoked_key_has_no_owner_and_is_not_listed(auth_db: Database, user_id: UUID) -> None:
    key = await a_key(auth_db, user_id)
    async with auth_db.transaction() as tx:
        assert await store.revoke_key(tx, uuid4(), key.id) is None, "another user's key"
        assert await store.keys_of(tx, user_id) == [key]
        assert await store.revoke_key(tx, user_id, key.id) == key
        assert await store.revoke_key(tx, user_id, key.id) == key, "once more changes nothing"
        assert await store.owner_of_key(tx, DIGEST) is None
        assert await store.keys_of(tx, user_id) == []
        assert await store.count_keys(tx, user_id) == 0


async def test_the_latest_use_stands(auth_db: Database, user_id: UUID) -> None:
    key, now = await a_key(auth_db, user_id), time.time()
    async with auth_db.transaction() as tx:
        for at in (now, now - 100):
            await store.mark_keys_used(tx, {key.id: at, uuid4(): at})
        (listed,) = await store.keys_of(tx, user_id)
    assert listed.last_used_at is not None
    assert listed.last_used_at.timestamp() == pytest.approx(now, abs=0.001)


async def test_emails_are_unique(auth_db: Database, user_id: UUID) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with auth_db.transaction() as tx:
            await tx.execute(
                "insert into users (organization_id, email, password_hash, role) values ('default', 'a@b', 'h', 'user')"
            )
