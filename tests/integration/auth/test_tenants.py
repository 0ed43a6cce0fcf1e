"""Row-level security: auth's own role, which owns the tables, sees one organization at a time."""

from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from libs.common import actor
from libs.common.database import EVERY_ORGANIZATION, Database

TENANT_TABLES = ("memberships", "api_keys", "user_sessions")
each_table = pytest.mark.parametrize("table", TENANT_TABLES)


@pytest.fixture
async def users(auth_db: Database) -> dict[str, UUID]:
    """Of two organizations, each with a member who has a key and a session."""
    members: dict[str, UUID] = {}
    async with auth_db.transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("insert into organizations (id, name) values ('acme', 'Acme')")
        for number, organization in enumerate(("default", "acme")):
            row = await (
                await tx.execute(
                    "insert into users (organization_id, email, password_hash) values (%s, %s, 'hash') returning id",
                    [organization, f"{organization}@b"],
                )
            ).fetchone()
            assert row is not None
            owner = {"o": organization, "u": row[0], "digest": str(number) * 64}
            for insert in (
                "insert into memberships (organization_id, user_id, role) values (%(o)s, %(u)s, 'user')",
                "insert into api_keys (organization_id, user_id, name, prefix, digest)"
                " values (%(o)s, %(u)s, 'laptop', 'omx_abc', %(digest)s)",
                "insert into user_sessions (organization_id, user_id, expires_at) values (%(o)s, %(u)s, now())",
            ):
                await tx.execute(insert, owner)
            members[organization] = row[0]
    return members


async def organizations(db: Database, table: str, organization: str | None = None) -> set[str]:
    """Whose rows are seen."""
    async with db.transaction(organization) as tx:
        rows = await tx.execute(sql.SQL("select organization_id from {}").format(sql.Identifier(table)))
        return {row[0] for row in await rows.fetchall()}


@each_table
@pytest.mark.usefixtures("users")
async def test_only_rows_of_the_chosen_organization_are_seen(auth_db: Database, table: str) -> None:
    assert await organizations(auth_db, table, "acme") == {"acme"}
    assert await organizations(auth_db, table, "default") == {"default"}
    assert await organizations(auth_db, table, "nobody's") == set()
    assert await organizations(auth_db, table, EVERY_ORGANIZATION) == {"acme", "default"}


@each_table
@pytest.mark.usefixtures("users")
async def test_the_actors_organization_is_chosen_unless_another_is_named(auth_db: Database, table: str) -> None:
    assert await organizations(auth_db, table) == set(), "nobody has been recognised"
    actor.become(actor.Actor(organization_id="acme"))
    assert await organizations(auth_db, table) == {"acme"}
    assert await organizations(auth_db, table, "default") == {"default"}


@each_table
@pytest.mark.usefixtures("users")
async def test_without_the_setting_nothing_is_seen(service_urls: dict[str, str], table: str) -> None:
    async with await psycopg.AsyncConnection.connect(service_urls["auth"]) as connection:
        rows = await connection.execute(sql.SQL("select 1 from {}").format(sql.Identifier(table)))
        assert await rows.fetchall() == []


@each_table
async def test_rows_of_another_organization_are_not_changed(
    auth_db: Database, users: dict[str, UUID], table: str
) -> None:
    name = sql.Identifier(table)
    async with auth_db.transaction("default") as tx:
        for statement in ("update {} set user_id = user_id where user_id = %s", "delete from {} where user_id = %s"):
            changed = await tx.execute(sql.SQL(statement).format(name), [users["acme"]])
            assert changed.rowcount == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with auth_db.transaction("default") as tx:
            await tx.execute(sql.SQL("update {} set organization_id = 'acme'").format(name))


async def test_no_row_is_made_in_another_organization(auth_db: Database, users: dict[str, UUID]) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with auth_db.transaction("default") as tx:
            await tx.execute(
                "insert into memberships (organization_id, user_id, role) values ('acme', %s, 'admin')",
                [users["default"]],
            )


@pytest.mark.usefixtures("users")
async def test_the_choice_ends_with_its_transaction(auth_db: Database) -> None:
    """Connections are shared: what one transaction chose is nothing to the next."""
    async with auth_db.transaction("acme") as tx:
        await tx.commit()
        assert await (await tx.execute("select from memberships")).fetchall() == []
