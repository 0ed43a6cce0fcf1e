"""Each service's tables: numbered SQL files, every one with its way back, applied by yoyo as the service starts.

``services/<service>/migrations/NNNN_pre_<name>.sql`` and ``NNNN_pre_<name>.rollback.sql``; before them, from
``libs/common/schema``, what every service has. ``pre`` says that the migration runs before the code that needs it, so
old code must be able to run on the new schema.
By hand: ``python -m libs.common.migrations up|rollback <service>`` with POSTGRES_URL set.
"""

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg
from yoyo import get_backend, read_migrations
from yoyo.backends import DatabaseBackend
from yoyo.migrations import MigrationList

from libs.common.settings import PostgresSettings, load

SERVICES = Path(__file__).parents[2] / "services"
OF_EVERY_SERVICE = Path(__file__).with_name("schema")

# A migration that cannot have its lock soon would make every query queue up behind it: better to fail and start again.
MIGRATION_TIMEOUTS = "-c lock_timeout=4s -c statement_timeout=5s"

# How long a replica waits for the one that migrates.
WAIT_FOR_OTHERS = "-c statement_timeout=60s"


async def migrate(service: str, settings: PostgresSettings) -> None:
    """Apply what is not applied yet. Raises ``psycopg.Error``; a migration that fails leaves nothing behind."""
    await asyncio.to_thread(_apply, service, settings.url.get_secret_value())


async def rollback(service: str, settings: PostgresSettings, steps: int = 1) -> None:
    """Undo the last ``steps`` migrations."""
    await asyncio.to_thread(_roll_back, service, settings.url.get_secret_value(), steps)


def _apply(service: str, url: str) -> None:
    with _migrating(service, url) as (backend, migrations):
        for migration in backend.to_apply(migrations):
            # yoyo's own loop commits a migration and its mark apart: killed in between, no service could start again.
            with backend.transaction():
                migration.process_steps(backend, "apply")
                backend.mark_one(migration, log=False)


def _roll_back(service: str, url: str, steps: int) -> None:
    with _migrating(service, url) as (backend, migrations):
        for migration in backend.to_rollback(migrations)[:steps]:
            with backend.transaction():
                migration.process_steps(backend, "rollback")
                backend.unmark_one(migration, log=False)


@contextmanager
def _migrating(service: str, url: str) -> Iterator[tuple[DatabaseBackend, MigrationList]]:
    """The service's migrations and a connection, while no other process migrates this service.

    The lock is Postgres's and ends with its transaction, whatever happens to this process. yoyo's own lock is a row
    that a killed process leaves behind; nobody can hold it here, so it is broken.
    """
    migrations = read_migrations(str(OF_EVERY_SERVICE), str(SERVICES / service / "migrations"))
    with psycopg.connect(url, options=WAIT_FOR_OTHERS, connect_timeout=5) as lock:
        lock.execute("select pg_advisory_xact_lock(hashtext(%s))", [f"migrations of {service}"])
        with get_backend(_yoyo_url(url)) as backend:
            backend.break_lock()
            yield backend, migrations


def _yoyo_url(url: str) -> str:
    separator = "&" if "?" in url else "?"
    options = urlencode({"options": MIGRATION_TIMEOUTS, "connect_timeout": 5})
    return url.replace("://", "+psycopg://", 1).replace("postgres+", "postgresql+", 1) + separator + options


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m libs.common.migrations")
    parser.add_argument("direction", choices=["up", "rollback"])
    parser.add_argument("service")
    parser.add_argument("--steps", type=int, default=1, help="how many migrations to roll back")
    arguments = parser.parse_args()
    settings = load(PostgresSettings)
    if arguments.direction == "up":
        asyncio.run(migrate(arguments.service, settings))
    else:
        asyncio.run(rollback(arguments.service, settings, arguments.steps))


if __name__ == "__main__":
    main()
