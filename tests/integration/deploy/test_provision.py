"""One role and one schema per service: nobody reads another's tables."""

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from deploy.postgres.provision import ROLES, provision, service_url


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    name = f"provision_{secrets.token_hex(4)}"
    yield name
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def passwords(postgres_urls: dict[str, str]) -> dict[str, str]:
    """The roles are the whole server's, so their passwords must stay those of the session."""
    return {role: str(psycopg.conninfo.conninfo_to_dict(postgres_urls[role])["password"]) for role in ROLES}


@pytest.fixture
def urls(postgres_url: str, database: str, passwords: dict[str, str]) -> dict[str, str]:
    provision(postgres_url, passwords, database)
    return {role: service_url(postgres_url, role, password, database) for role, password in passwords.items()}


def test_each_service_lands_in_its_own_schema(urls: dict[str, str]) -> None:
    for role, url in urls.items():
        with psycopg.connect(url) as connection:
            row = connection.execute("select current_user, current_schema()").fetchone()
            assert row == (role, role)


def test_a_service_has_no_rights_elsewhere(urls: dict[str, str]) -> None:
    with psycopg.connect(urls["auth"]) as connection:
        connection.execute("create table users (id int)")
    with psycopg.connect(urls["gateway"], autocommit=True) as connection:
        for statement in (
            "select * from auth.users",
            "create table public.mine (id int)",
            "create table auth.mine (id int)",
            "create schema mine",
            "create role mine",
            "set role auth",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_it_may_run_again(postgres_url: str, database: str, passwords: dict[str, str], urls: dict[str, str]) -> None:
    with psycopg.connect(urls["auth"]) as connection:
        connection.execute("create table users (id int)")
    provision(postgres_url, passwords, database)
    with psycopg.connect(urls["auth"]) as connection:
        assert connection.execute("select count(*) from users").fetchone() == (0,)
