"""Every service's migrations on real Postgres: up, all the way back, up again; and two replicas at once."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from yoyo import read_migrations

from libs.common.migrations import OF_EVERY_SERVICE, SERVICES, migrate, rollback
from tests.fixtures.database import MIGRATED, new_database, settings_for


@pytest.fixture
def urls(postgres_url: str, passwords: dict[str, str]) -> Iterator[dict[str, str]]:
    """No tables yet."""
    with new_database(postgres_url, passwords) as urls:
        yield urls


async def tables(url: str) -> set[str]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        rows = await connection.execute("select tablename from pg_tables where schemaname = current_schema()")
        return {str(name) for (name,) in await rows.fetchall() if "yoyo" not in name}


@pytest.mark.parametrize("service", MIGRATED)
async def test_up_back_and_up_again(urls: dict[str, str], service: str) -> None:
    settings = settings_for(urls[service])
    steps = len(read_migrations(str(OF_EVERY_SERVICE), str(SERVICES / service / "migrations")))
    await migrate(service, settings)
    first = await tables(urls[service])
    assert first
    await rollback(service, settings, steps)
    assert await tables(urls[service]) == set()
    await migrate(service, settings)
    assert await tables(urls[service]) == first


@pytest.mark.parametrize("service", MIGRATED)
def test_every_migration_has_its_way_back(service: str) -> None:
    for migration in [*OF_EVERY_SERVICE.glob("*.sql"), *(SERVICES / service / "migrations").glob("*.sql")]:
        if not migration.name.endswith(".rollback.sql"):
            assert migration.with_suffix(".rollback.sql").is_file(), migration.name


async def test_invitations_of_who_is_gone_are_withdrawn(urls: dict[str, str]) -> None:
    settings, newest = settings_for(urls["auth"]), "0009_pre_inviters"
    names = sorted(path.stem for path in (SERVICES / "auth" / "migrations").glob("*[!k].sql"))
    await migrate("auth", settings)
    await rollback("auth", settings, len(names) - names.index(newest))
    async with await psycopg.AsyncConnection.connect(urls["auth"]) as connection:
        await connection.execute("select set_config('ollamamax.organization', '*', true)")
        await connection.execute(
            "insert into users (organization_id, email, password_hash, disabled_at)"
            " values ('default', 'here@b', '', null), ('default', 'disabled@b', '', now())"
        )
        await connection.execute(
            "insert into invitations (organization_id, email, role, digest, expires_at, invited_by)"
            " select 'default', coalesce(email, 'gone@b'), 'admin', coalesce(email, 'gone@b'), now(), id"
            " from users full join (values (null::uuid)) as nobody (id) using (id)"
        )
    await migrate("auth", settings)
    async with await psycopg.AsyncConnection.connect(urls["auth"]) as connection:
        await connection.execute("select set_config('ollamamax.organization', '*', true)")
        rows = await connection.execute("select email from invitations")
        assert await rows.fetchall() == [("here@b",)]


async def test_replicas_that_start_together_migrate_once(urls: dict[str, str]) -> None:
    settings = settings_for(urls["auth"])
    await asyncio.gather(*(migrate("auth", settings) for _ in range(4)))
    assert "users" in await tables(urls["auth"])


async def test_a_killed_replica_leaves_no_lock(urls: dict[str, str]) -> None:
    """yoyo's lock row stays when a process dies; it must not stop the next one."""
    settings = settings_for(urls["auth"])
    await migrate("auth", settings)
    async with await psycopg.AsyncConnection.connect(urls["auth"]) as connection:
        await connection.execute("insert into yoyo_lock (locked, ctime, pid) values (1, now(), 1)")
    await rollback("auth", settings)
    await migrate("auth", settings)
