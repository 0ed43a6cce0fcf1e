import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from libs.common.database import EVERY_ORGANIZATION, Database
from services.auth.store import callers as caller_store
from services.auth.store import keys as key_store
from services.auth.store import signing as signing_store
from services.auth.store import users as user_store
from services.auth.store.signing import SigningKey

DIGEST = "d" * 64


@pytest.fixture
async def user_id(auth_db: Database) -> UUID:
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        assert await user_store.insert_first_admin(tx, "default", "a@b", "hash")
        user = await user_store.credentials_of(tx, "a@b")
        assert user is not None
        return user.id


async def a_key(db: Database, user_id: UUID, digest: str = DIGEST, expires_at: datetime | None = None) -> UUID:
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        return await key_store.insert_key(
            tx,
            "default",
            user_id,
            "laptop",
            prefix="omx_abc",
            digest=digest,
            scopes=None,
            models=[],
            expires_at=expires_at,
            weight=1.0,
        )


async def test_replicas_that_start_together_make_one_admin(auth_db: Database) -> None:
    async def create(number: int) -> bool:
        async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
            return await user_store.insert_first_admin(tx, "default", f"admin{number}@b", "hash") is not None

    assert sum(await asyncio.gather(*(create(number) for number in range(5)))) == 1
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        assert await user_store.has_admin(tx, "default")


async def test_replicas_that_start_together_agree_on_a_signing_key(auth_db: Database) -> None:
    async def insert(number: int) -> bool:
        async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
            key = SigningKey(f"k{number}", b"sealed", {"kid": f"k{number}"})
            return await signing_store.insert_signing_key(tx, key, 3600.0)

    assert sum(await asyncio.gather(*(insert(number) for number in range(5)))) == 1
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        (key,) = await signing_store.signing_keys(tx)
        assert key.public_jwk == {"kid": key.id}
        assert await signing_store.insert_signing_key(tx, SigningKey("next", b"sealed", {}), 0.0)


async def test_the_owner_of_a_key(auth_db: Database, user_id: UUID) -> None:
    key = await a_key(auth_db, user_id)
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        owner = await caller_store.caller_of_key(tx, DIGEST)
        assert await caller_store.caller_of_key(tx, "e" * 64) is None
    assert owner is not None
    assert (owner.key_id, owner.id, owner.organization_id, owner.role) == (key, user_id, "default", "admin")


async def test_an_expired_key_has_no_owner(auth_db: Database, user_id: UUID) -> None:
    await a_key(auth_db, user_id, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        assert await caller_store.caller_of_key(tx, DIGEST) is None


async def test_a_revoked_key_has_no_owner_and_is_not_listed(auth_db: Database, user_id: UUID) -> None:
    key = await a_key(auth_db, user_id)
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        assert [listed.id for listed in await key_store.list_keys(tx, user_id, (None, None), 9)] == [key]
        assert await key_store.list_keys(tx, uuid4(), (None, None), 9) == []
        await key_store.revoke_key(tx, key)
        assert await caller_store.caller_of_key(tx, DIGEST) is None
        assert await key_store.key_of_id(tx, key) is None
        assert await key_store.list_keys(tx, user_id, (None, None), 9) == []
        assert await key_store.count_keys(tx, user_id) == 0


async def test_the_latest_use_stands(auth_db: Database, user_id: UUID) -> None:
    key, now = await a_key(auth_db, user_id), time.time()
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        for at in (now, now - 100):
            await key_store.mark_keys_used(tx, {key: at, uuid4(): at})
        listed = await key_store.key_of_id(tx, key)
    assert listed is not None
    assert listed.last_used_at is not None
    assert listed.last_used_at.timestamp() == pytest.approx(now, abs=0.001)


async def test_emails_are_unique(auth_db: Database, user_id: UUID) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
            await tx.execute(
                "insert into users (organization_id, email, password_hash, role) values ('default', 'a@b', 'h', 'user')"
            )
