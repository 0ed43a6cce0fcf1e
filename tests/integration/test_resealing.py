"""A key is replaced: the old one is dropped when nothing is sealed with it any more."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from psycopg import sql

from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.resealing import SealedColumn, reseal_now
from libs.common.sealing import CannotOpenError, Place, Ring
from services.auth import sealed
from tests.fixtures.database import open_database

OLD, NEW = Ring(bytes(32)), Ring(b"n" * 32)
BOTH = Ring(b"n" * 32, bytes(32))
TOTP = SealedColumn("user_totp", "sealed_secret", "user_id")


@pytest.fixture
async def databases(service_urls: dict[str, str]) -> AsyncIterator[dict[str, Database]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(open_database(url)) for name, url in service_urls.items()}


async def many_secrets(db: Database, ring: Ring, count: int) -> None:
    """Of as many users, each sealed for its place; the secret is the user's id."""
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        for _ in range(count):
            user = uuid4()
            await tx.execute(
                "insert into users (id, organization_id, email, password_hash) values (%s, 'default', %s, '')",
                [user, f"{user}@example.com"],
            )
            cell = ring.seal(str(user).encode(), Place("user_totp", "sealed_secret", str(user)))
            await tx.execute("insert into user_totp (user_id, sealed_secret) values (%s, %s)", [user, cell])


async def opened(db: Database, ring: Ring) -> list[bool]:
    async with db.transaction() as tx:
        rows = await (await tx.execute("select user_id::text, sealed_secret from user_totp")).fetchall()
    return [ring.open(cell, Place("user_totp", "sealed_secret", user)) == user.encode() for user, cell in rows]


async def test_after_that_the_old_key_is_not_needed(auth_db: Database) -> None:
    await many_secrets(auth_db, OLD, 230)
    await many_secrets(auth_db, NEW, 20)
    assert await reseal_now(auth_db, BOTH, TOTP) == 0
    assert await opened(auth_db, NEW) == [True] * 250
    assert await reseal_now(auth_db, NEW, TOTP) == 0


async def test_what_no_key_opens_is_left_and_counted(auth_db: Database) -> None:
    await many_secrets(auth_db, OLD, 150)
    assert await reseal_now(auth_db, NEW, TOTP) == 150
    with pytest.raises(CannotOpenError):
        await opened(auth_db, NEW)
    assert await opened(auth_db, OLD) == [True] * 150


async def test_a_value_of_another_row_is_not_made_good(auth_db: Database) -> None:
    await many_secrets(auth_db, OLD, 2)
    async with auth_db.transaction() as tx:
        await tx.execute(
            "update user_totp set sealed_secret = (select sealed_secret from user_totp order by user_id limit 1)"
        )
    assert await reseal_now(auth_db, BOTH, TOTP) == 1


async def test_every_sealed_column_is_known(databases: dict[str, Database]) -> None:
    known = {"auth": {(column.table, column.column) for column in sealed.COLUMNS}}
    known["scheduler"] = {("stored_exchanges", "sealed")}
    known["gateway"] = {("file_chunks", "sealed"), ("batch_lines", "sealed")}
    known["gateway"] |= {("responses", f"sealed_{part}") for part in ("request", "response", "frames")}
    for service, db in databases.items():
        async with db.transaction() as tx:
            rows = await tx.execute(
                sql.SQL(
                    "select table_name, column_name from information_schema.columns"
                    " where table_schema = current_schema() and data_type = 'bytea' and column_name like 'sealed%%'"
                )
            )
            assert set(await rows.fetchall()) == known.get(service, set())
