"""The Postgres pool and ``transaction()``, the only place that commits."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from libs.common import actor
from libs.common.errors import Unavailable
from libs.common.settings import PostgresSettings

Transaction = AsyncConnection[TupleRow]

EVERY_ORGANIZATION: Final = "*"
"""For what a service does by itself: it sees the rows of all tenants."""


class Database:
    """One pool of connections in this service's own role, whose search path is its own schema.

    A transaction is short: never await the bus, Redis, an engine or HTTP inside one.
    """

    def __init__(self, settings: PostgresSettings, application: str) -> None:
        self._url = settings.url.get_secret_value()
        self._application = application
        self._pool = AsyncConnectionPool(
            self._url,
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
    async def transaction(self, organization: str | None = None) -> AsyncIterator[Transaction]:
        """Commits at the end, rolls back on an exception. Raises ``Unavailable`` while Postgres is away.

        Tenant tables show and take only rows of ``organization``: that of the current actor, if none is given. Without
        either they are empty.
        """
        who = actor.current()
        try:
            async with self._pool.connection() as connection:
                await connection.execute(
                    "select set_config('ollamamax.organization', %s, true), set_config('ollamamax.actor', %s, true)",
                    [who.organization_id if organization is None else organization, actor.encode(who)],
                )
                yield connection
        except (OperationalError, PoolTimeout) as error:
            raise Unavailable("the database is not available; please try again") from error

    async def wake_ups(self, channel: str, seconds: float) -> AsyncIterator[None]:
        """At once, at every notification on this channel, and at least every so often. Raises ``Unavailable``."""
        try:
            connection = await AsyncConnection.connect(
                self._url, autocommit=True, connect_timeout=5, application_name=f"{self._application}-listens"
            )
            async with connection:
                await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                while True:
                    yield
                    async with aclosing(connection.notifies(timeout=seconds, stop_after=1)) as notifications:
                        async for _ in notifications:
                            pass
        except OperationalError as error:
            raise Unavailable("the database is not available; please try again") from error

    async def check(self) -> None:
        """Raises ``Unavailable`` unless a statement runs."""
        async with self.transaction() as tx:
            await tx.execute("select 1")

    def pool_stats(self) -> dict[str, int]:
        """psycopg's counters: pool_size, pool_available, requests_waiting and others."""
        return dict(self._pool.get_stats())
