"""Look at the audit log as a whole, beside the running suite or without it.

    python -m services.auth.audit verify [--known SEQ:HASH]
    python -m services.auth.audit export [--from DATE] [--to DATE] [--file FILE]

``verify`` says where the chain is broken and ends with 1 if it is; ``--known``: an end of the log as auth has logged it
some time ago. ``export`` writes a line of JSON for each entry. POSTGRES_URL and AUTH_SECRET_KEY are auth's.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.settings import PostgresSettings, load
from services.auth.audit.chain import Chain
from services.auth.audit.lines import line
from services.auth.audit.log import open_chain
from services.auth.audit.verify import verify
from services.auth.settings import Settings
from services.auth.store import audit as store


async def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _arguments(arguments)
    async with _database() as db:
        if chosen.command == "verify":
            return await _verify(db, chosen.known)
        await _export(db, chosen.since, chosen.until, chosen.file)
        return 0


async def _verify(db: Database, known: tuple[int, bytes] | None) -> int:
    settings = load(Settings)
    chain = await _chain(db, settings)
    broken = 0
    async for problem in verify(db, chain, settings.audit_archive_dir, known):
        broken += 1
        sys.stdout.write(problem + "\n")
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        head = await store.head(tx)
    end = f"{head.seq}:{head.hash.hex()}" if head else "nowhere"
    sys.stdout.write(f"the audit log is {'broken' if broken else 'whole'}; it ends with {end}\n")
    return 1 if broken else 0


async def _chain(db: Database, settings: Settings) -> Chain:
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        sealed = await store.sealed_key(tx)
    if sealed is None:
        raise SystemExit("there is no audit log: either auth has never run, or its key was removed")
    return open_chain(sealed, settings.sealing())


async def _export(db: Database, since: datetime | None, until: datetime | None, file: Path | None) -> None:
    with ExitStack() as stack:
        out = stack.enter_context(file.open("w", encoding="utf-8")) if file else sys.stdout
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            async for entry in store.entries(tx, since=since, until=until):
                out.write(line(entry))


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    db = Database(load(PostgresSettings), "audit")
    await db.open()
    try:
        yield db
    finally:
        await db.close()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.auth.audit")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("verify", help="find what was changed or removed")
    checking.add_argument("--known", type=_known, metavar="SEQ:HASH", help="an end of the log, as noted elsewhere")
    writing = commands.add_parser("export", help="write JSON lines")
    writing.add_argument("--from", dest="since", type=_time, help="first moment, as 2026-01-31 or 2026-01-31T12:00:00Z")
    writing.add_argument("--to", dest="until", type=_time, help="the first moment that is no longer of interest")
    writing.add_argument("--file", type=Path, help="instead of standard output")
    return parser.parse_args(arguments)


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _known(text: str) -> tuple[int, bytes]:
    seq, _, digest = text.partition(":")
    return int(seq), bytes.fromhex(digest)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
