"""The servers the benchmark runs on: the tests' own fixtures, without pytest around them."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import unwrap

import psycopg
import redis.asyncio as redis
from aio_pika import connect

from tests.fixtures import infra
from tests.load.cpu import server_processes


@dataclass(frozen=True)
class Servers:
    rabbitmq_url: str
    redis_url: str
    postgres_urls: Mapping[str, str]
    """By service."""

    def pids(self, *kinds: str) -> dict[str, list[int]]:
        urls = {"rabbitmq": self.rabbitmq_url, "redis": self.redis_url, "postgres": self.postgres_urls["scheduler"]}
        return {kind: server_processes(kind, urls[kind]) for kind in kinds}

    async def versions(self) -> str:
        async with redis.Redis.from_url(self.redis_url) as client:
            info = await client.info("server")
        async with await psycopg.AsyncConnection.connect(self.postgres_urls["scheduler"], connect_timeout=5) as pg:
            postgres = pg.info.parameter_status("server_version")
        return (
            f"{os.cpu_count()} cores, Python {platform.python_version()}, RabbitMQ {await _rabbitmq_version(self)}, "
            f"{info.get('server_name', 'redis').capitalize()} {info.get('valkey_version', info['redis_version'])}, "
            f"Postgres {postgres}"
        )


async def _rabbitmq_version(servers: Servers) -> str:
    async with await connect(servers.rabbitmq_url, timeout=10) as connection:
        transport = connection.transport
        assert transport is not None
        return str(transport.connection.server_properties["version"])


@contextmanager
def running_servers() -> Iterator[Servers]:
    infrastructure = contextmanager(unwrap(infra.infrastructure))
    postgres_urls = contextmanager(unwrap(infra.postgres_urls))
    with infrastructure() as servers, postgres_urls(servers.urls["postgres"]) as by_service:
        yield Servers(servers.urls["rabbitmq"], servers.urls["redis"], by_service)
