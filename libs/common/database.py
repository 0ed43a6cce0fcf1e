"""The Postgres pool and ``transaction()``, the only place that commits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from libs.common.errors import Unavailable
from libs.common.settings import PostgresSettings

Transaction = AsyncConnection[TupleRow]


class Database:
    """One pool of connections in this service's own role, whose search path is its own schema.

    A transaction is short: never await the bus, Redis, an engine or HTTP inside one.
    """

    def __init__(self, settings: PostgresSettings, application: str) -> None:
        self._pool = AsyncConnectionPool(
            settings.url.get_secret_value(),
            kwargs={
                "application_name": application,
                "options": f"-c statement_timeout={settings.statement_timeout_ms}",
                "connect_timeout": 5,
            },
            min_size=1,
            max_size=settings.pool_max_size,
            timeout=5,
            open=False,
            check=AsyncConnectionPool.check_connection,
        )

    async def open(self) -> None:
        """Raises ``psycopg_pool.PoolTimeout`` if Postgres does not answer in ten seconds."""
        await self._pool.open(wait=True, timeout=10)

    async def close(self) -> None:
        await self._pool.close(timeout=5)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end, rolls back on an exception. Raises ``Unavailable`` while Postgres is away."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (OperationalError, PoolTimeout) as error:
            raise Unavailable("the database is not available; please try again") from error

    async def check(self) -> None:
        """Raises ``Unavailable`` unless a statement runs."""
        async with self.transaction() as tx:
            await tx.execute("select 1")

    def pool_stats(self) -> dict[str, int]:
        """psycopg's counters: pool_size, pool_available, requests_waiting and others."""
        return dict(self._pool.get_stats())
