"""The database `ollamamax`: one login role and one schema per service, so that no service can read another's tables.

``python -m deploy.postgres.provision`` with POSTGRES_ADMIN_URL and <SERVICE>_DB_PASSWORD for each service.
"""

import os
import sys
from collections.abc import Mapping
from urllib.parse import quote, urlencode

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

DATABASE = "ollamamax"

# The services that have tables. A worker has none.
ROLES = ("gateway", "auth", "registry", "scheduler")

CONNECT_SECONDS = 10

OF_THE_ADMIN = ("user", "password", "passfile", "dbname")
"""What a service does not take over from the URL of who made its role."""


def provision(admin_url: str, passwords: Mapping[str, str], database: str = DATABASE) -> None:
    """Create what is missing and set the passwords; may run any number of times. Raises ``psycopg.Error``.

    ``passwords`` maps a service's role to its password. The caller of ``admin_url`` may create roles and databases.
    """
    with psycopg.connect(admin_url, autocommit=True, connect_timeout=CONNECT_SECONDS) as admin:
        _create_database(admin, database)
        for role, password in passwords.items():
            _create_role(admin, role, password)
    inside = make_conninfo(admin_url, dbname=database)
    with psycopg.connect(inside, connect_timeout=CONNECT_SECONDS) as admin:
        _close_to_everybody(admin, database)
        _add_vector(admin)
        for role in passwords:
            _give_schema(admin, database, role)


def service_url(admin_url: str, role: str, password: str, database: str = DATABASE) -> str:
    """The URL a service logs in with, on the server of ``admin_url`` and in the same way (TLS)."""
    server = conninfo_to_dict(admin_url)
    host, port = str(server.pop("host", None) or "127.0.0.1"), server.pop("port", None) or 5432
    address = f"[{host}]" if ":" in host else quote(host, safe=",")
    # Postgres reads a plus as itself, not as a space.
    how = urlencode({name: value for name, value in server.items() if name not in OF_THE_ADMIN}, quote_via=quote)
    return f"postgresql://{role}:{quote(password, safe='')}@{address}:{port}/{database}{'?' if how else ''}{how}"


def _create_database(admin: Connection[TupleRow], database: str) -> None:
    if admin.execute("select 1 from pg_database where datname = %s", [database]).fetchone() is None:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(database)))


def _create_role(admin: Connection[TupleRow], role: str, password: str) -> None:
    name = sql.Identifier(role)
    if admin.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone() is None:
        admin.execute(sql.SQL("create role {}").format(name))
    rights = sql.SQL("alter role {} with login nosuperuser nocreatedb nocreaterole noinherit password {}")
    admin.execute(rights.format(name, sql.Literal(password)))
    # Managed servers let an administrator who is no superuser make a schema for another role only as its member.
    admin.execute(sql.SQL("grant {} to current_user").format(name))


def _close_to_everybody(admin: Connection[TupleRow], database: str) -> None:
    admin.execute(sql.SQL("revoke all on database {} from public").format(sql.Identifier(database)))
    admin.execute("revoke all on schema public from public")


def _add_vector(admin: Connection[TupleRow]) -> None:
    """pgvector where the server has it; nothing needs it yet."""
    if admin.execute("select 1 from pg_available_extensions where name = 'vector'").fetchone() is not None:
        admin.execute("create extension if not exists vector")


def _give_schema(admin: Connection[TupleRow], database: str, role: str) -> None:
    name = sql.Identifier(role)
    admin.execute(sql.SQL("grant connect on database {} to {}").format(sql.Identifier(database), name))
    admin.execute(sql.SQL("create schema if not exists {} authorization {}").format(name, name))
    path = sql.SQL("alter role {} in database {} set search_path = {}")
    admin.execute(path.format(name, sql.Identifier(database), name))


def main() -> None:
    missing = [name for name in ("POSTGRES_ADMIN_URL", *map(_password_variable, ROLES)) if not os.environ.get(name)]
    if missing:
        sys.exit(f"set {', '.join(missing)}")
    provision(os.environ["POSTGRES_ADMIN_URL"], {role: os.environ[_password_variable(role)] for role in ROLES})


def _password_variable(role: str) -> str:
    return f"{role.upper()}_DB_PASSWORD"


if __name__ == "__main__":
    main()
