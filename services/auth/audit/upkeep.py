"""What the log needs by itself: room for the months to come, an end that is noted elsewhere, and an age."""

import asyncio
from datetime import UTC, date, datetime
from typing import Final

import structlog

from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.errors import Unavailable
from services.auth.audit.retention import Archiver, Broken, months_before
from services.auth.context import Context
from services.auth.store import audit as store

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 600.0
MONTHS_AHEAD: Final = 2


async def keep_up(ctx: Context) -> None:
    """Background loop."""
    noted = 0
    while True:
        try:
            noted = await look_after(ctx, datetime.now(UTC).date(), noted)
        except Unavailable as error:
            log.warning("the audit log is not looked after; will try again", why=error.message)
        except (OSError, Broken) as error:
            log.error("the audit log cannot be archived", why=str(error))
        await asyncio.sleep(LOOK_SECONDS)


async def look_after(ctx: Context, today: date, noted: int) -> int:
    """``noted``: the last number that was logged. The new one."""
    await make_room(ctx.db, today)
    noted = await _note_end(ctx.db, noted)
    if ctx.settings.audit_retention_months and ctx.settings.audit_archive_dir:
        directory, months = ctx.settings.audit_archive_dir, ctx.settings.audit_retention_months
        await Archiver(ctx.db, ctx.audit.chain, directory, months).run(today)
    return noted


async def make_room(db: Database, today: date) -> None:
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        for ahead in range(MONTHS_AHEAD + 1):
            await store.make_partition(tx, months_before(today, -ahead))


async def _note_end(db: Database, noted: int) -> int:
    """In the log of this process, which is another place than the database: ``verify --known`` compares with it."""
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        head = await store.head(tx)
    if head is None or head.seq == noted:
        return noted
    log.info("the audit log ends here", known=f"{head.seq}:{head.hash.hex()}")
    return head.seq
