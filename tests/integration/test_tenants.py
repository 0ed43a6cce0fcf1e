"""No table of any service shows one tenant's rows to another, not even to the service's own role.

The tables are those that are there: a new one is in these tests without anybody's doing.
"""

from collections.abc import Iterator
from typing import Final

import psycopg
import pytest
from psycopg import sql

from tests.fixtures.database import MIGRATED

NOT_A_TENANTS: Final = {
    "auth.users": "an account may belong to several organizations; this is the one a login leads to",
}
"""Tables that have a column organization_id all the same."""

NOBODYS: Final = {
    "auth.audit_archives": "files of the whole installation's audit log",
    "auth.audit_head": "where the chain ends, which is the installation's",
    "auth.audit_key": "of the chain",
    "auth.erased_users": "accounts, which may belong to several organizations",
    "auth.login_failures": "who fails to log in belongs to none",
    "auth.recovery_codes": "of accounts",
    "auth.signing_keys": "the installation's",
    "auth.user_totp": "of accounts",
    "gateway.system_config": "the installation's",
    "gateway.system_config_history": "the installation's",
    "registry.blobs": "stored once, whoever has it; who may know of one is in brought_blobs and model_layers",
    "registry.cached_blobs": "what nodes have",
    "registry.model_replicas": "what nodes should have",
    "registry.peers": "nodes",
    "scheduler.node_reports": "nodes",
    "scheduler.nodes": "nodes",
}
"""Tables whose rows are no tenant's."""

OF_TENANTS_MODELS: Final = {"registry.model_versions", "registry.model_layers"}
"""Their rows are seen with their model's row, by policies of their own; tests/integration/registry tries them."""

EVERY_SERVICES: Final = ("outbox", "yoyo_lock", "_yoyo_log", "_yoyo_migration", "_yoyo_version")

ALSO_SEEN: Final = {
    "registry.models": "shared_with_all",
}
"""Policies that show rows to other tenants: of models that their organization shares."""

NAMED_BY_ITSELF: Final = "auth.organizations"
"""Its id is the organization's."""

DUMMIES: Final = {
    "text": "md5(random()::text)",
    "uuid": "gen_random_uuid()",
    "integer": "1",
    "bigint": "(random() * 1e15)::bigint",
    "boolean": "false",
    "real": "1",
    "double precision": "1",
    "timestamp with time zone": "now()",
    "date": "now()::date",
    "bytea": "'x'",
    "json": "'{}'",
    "jsonb": "'{}'",
    "ARRAY": "'{}'",
}


@pytest.fixture
def superuser(postgres_url: str, service_urls: dict[str, str]) -> Iterator[psycopg.Connection]:
    """In this test's database; row-level security does not bind it, and checks and triggers are off."""
    with psycopg.connect(service_urls["auth"]) as auth:
        auth.execute("call make_audit_partition(date_trunc('month', now())::date)")
    name = psycopg.conninfo.conninfo_to_dict(service_urls["auth"])["dbname"]
    with psycopg.connect(postgres_url, dbname=name, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica")
        yield connection


def tenant_tables(superuser: psycopg.Connection) -> dict[str, str]:
    """Table to the column that says whose a row is."""
    rows = superuser.execute(
        """
        select table_schema || '.' || table_name from information_schema.columns join information_schema.tables
            using (table_schema, table_name)
        where column_name = 'organization_id' and table_schema = any(%s) and table_type = 'BASE TABLE'
        """,
        [list(MIGRATED)],
    ).fetchall()
    tables = {name: "organization_id" for (name,) in rows if name not in NOT_A_TENANTS}
    return tables | {NAMED_BY_ITSELF: "id"}


def named(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


def fill(superuser: psycopg.Connection, table: str, column: str, organization: str) -> None:
    """A row with values that mean nothing."""
    schema, name = table.split(".")
    for (check,) in superuser.execute(
        "select conname from pg_constraint where contype = 'c' and conrelid = %s::regclass", [table]
    ).fetchall():
        superuser.execute(sql.SQL("alter table {} drop constraint {}").format(named(table), sql.Identifier(check)))
    needed = superuser.execute(
        """
        select column_name, data_type from information_schema.columns
        where table_schema = %s and table_name = %s and column_name <> %s and is_generated = 'NEVER'
          and is_identity = 'NO' and is_nullable = 'NO' and column_default is null
        """,
        [schema, name, column],
    ).fetchall()
    superuser.execute(
        sql.SQL("insert into {} ({}) values ({})").format(
            named(table),
            sql.SQL(", ").join(map(sql.Identifier, [column, *(each for each, _ in needed)])),
            sql.SQL(", ").join([sql.Literal(organization), *(sql.SQL(DUMMIES[kind]) for _, kind in needed)]),
        )
    )


def works_for(connection: psycopg.Connection, organization: str | None) -> None:
    connection.rollback()
    if organization is not None:
        connection.execute("select set_config('ollamamax.organization', %s, true)", [organization])


def test_every_table_of_tenants_is_under_row_level_security(superuser: psycopg.Connection) -> None:
    for table, column in tenant_tables(superuser).items():
        forced = superuser.execute(
            "select relrowsecurity and relforcerowsecurity from pg_class where oid = %s::regclass", [table]
        ).fetchone()
        assert forced == (True,), f"{table}: call make_tenant_table in its migration"
        schema, name = table.split(".")
        policies = superuser.execute(
            "select permissive, cmd, roles::text, qual, with_check from pg_policies"
            " where schemaname = %s and tablename = %s and not (cmd = 'SELECT' and policyname = %s)",
            [schema, name, ALSO_SEEN.get(table, "")],
        ).fetchall()
        sees = f"{schema}.sees({column})"
        found = [(kind, cmd, roles, str(qual), str(check)) for kind, cmd, roles, qual, check in policies]
        assert found == [("PERMISSIVE", "ALL", "{public}", sees, sees)], table


def test_every_other_table_is_known_to_be_nobodys(superuser: psycopg.Connection) -> None:
    """A new table either says whose its rows are, or is in the list with the reason why they are nobody's."""
    rows = superuser.execute(
        "select schemaname || '.' || tablename from pg_tables where schemaname = any(%s) and tablename <> all(%s)",
        [list(MIGRATED), list(EVERY_SERVICES)],
    ).fetchall()
    others = {name for (name,) in rows} - set(tenant_tables(superuser)) - set(NOT_A_TENANTS)
    assert others == set(NOBODYS) | OF_TENANTS_MODELS


def test_no_role_of_a_service_is_above_row_level_security(superuser: psycopg.Connection) -> None:
    rows = superuser.execute(
        "select rolname from pg_roles where rolname = any(%s) and not rolsuper and not rolbypassrls", [list(MIGRATED)]
    ).fetchall()
    assert {name for (name,) in rows} == set(MIGRATED)


def test_each_service_sees_and_changes_one_tenants_rows_at_a_time(
    superuser: psycopg.Connection, service_urls: dict[str, str]
) -> None:
    for table, column in tenant_tables(superuser).items():
        for organization in ("acme-1", "globex-1"):
            fill(superuser, table, column, organization)
        with psycopg.connect(service_urls[table.split(".")[0]]) as service:
            whose = sql.SQL("select {} from {}").format(sql.Identifier(column), named(table))
            for chosen, expected in ((None, set()), ("", set()), ("acme", set()), ("acme-1", {("acme-1",)})):
                works_for(service, chosen)
                assert set(service.execute(whose).fetchall()) == expected, (table, chosen)
            for statement in ("update {} set {} = {} where {} = 'globex-1'", "delete from {} where {} = 'globex-1'"):
                works_for(service, "acme-1")
                assert changed(service, statement, table, column) == 0, (table, statement)
            works_for(service, "acme-1")
            assert changed(service, "update {} set {} = 'globex-1'", table, column) == 0, table
        counts = superuser.execute(sql.SQL("select count(*) from {}").format(named(table))).fetchone()
        assert counts is not None
        assert counts[0] >= len(("acme-1", "globex-1")), table


def changed(service: psycopg.Connection, statement: str, table: str, column: str) -> int:
    """How many rows; none, if it was refused. Some tables refuse every change."""
    column_count = statement.count("{}") - 1
    query = sql.SQL(statement).format(named(table), *[sql.Identifier(column)] * column_count)
    try:
        return service.execute(query).rowcount
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.RaiseException):
        return 0
