"""The embedded servers themselves: they come back on the same address, and a killed session leaves nothing for long."""

import asyncio

import psycopg

from deploy.local.launch import start_time
from deploy.local.leftovers import end_leftovers, running_programs
from tests.fixtures.infra import EmbeddedServer, embedded_servers


async def test_postgres_keeps_what_was_committed(embedded_postgres: EmbeddedServer, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("create table kept (id int)")
    await asyncio.to_thread(embedded_postgres.restart)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("drop table kept")


async def test_redis_comes_back_after_a_kill(embedded_redis: EmbeddedServer) -> None:
    await asyncio.to_thread(embedded_redis.kill)
    assert not embedded_redis.server.answers()
    await asyncio.to_thread(embedded_redis.start)
    assert embedded_redis.server.answers()


def test_servers_whose_owner_is_gone_can_be_found_and_ended() -> None:
    with embedded_servers(["redis", "postgres"]) as infrastructure:
        server = infrastructure.embedded["redis"]
        pids = {program.name: program.pid for program in running_programs(server.directory)}
        assert set(pids) == {"valkey", "postgres"}
        assert end_leftovers(server.directory, servers=("valkey", "postgres")) == ["postgres", "valkey"]
        assert [start_time(pid) for pid in pids.values()] == [None, None]
