"""Background loops over what is kept: what is old is forgotten, and all is sealed with the newest key."""

import asyncio
from typing import Final

import structlog

from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Unavailable
from libs.common.resealing import SealedColumn, reseal
from services.gateway.context import Context
from services.gateway.settings import Settings
from services.gateway.store import batches as batch_store
from services.gateway.store import files as file_store
from services.gateway.store import responses as response_store

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 600.0
FILES_AT_ONCE: Final = 5
"""To delete the pieces of more takes longer than a statement may."""

RESPONSES_AT_ONCE: Final = 100

SEALED: Final = (
    *(("file_chunks", "sealed"), ("batch_lines", "sealed"), ("batch_lines", "answer")),
    *(("responses", column) for column in ("sealed_request", "sealed_response", "sealed_frames")),
)


async def forget_old(ctx: Context) -> None:
    """Expired files and responses, uploads that were given up, and batches that ended long ago."""
    while True:
        try:
            async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
                deleted = await _forget_some(tx, ctx.settings)
        except Unavailable as error:
            log.warning("what is old could not be deleted", reason=error.message)
            deleted = 0
        await asyncio.sleep(0 if deleted else LOOK_SECONDS)


async def _forget_some(tx: Transaction, settings: Settings) -> int:
    return (
        await file_store.delete_old(tx, FILES_AT_ONCE)
        + await batch_store.delete_old(tx, settings.file_days, FILES_AT_ONCE)
        + await response_store.delete_old(tx, RESPONSES_AT_ONCE)
        + await response_store.delete_beyond(tx, settings.organization_response_bytes, RESPONSES_AT_ONCE)
    )


async def seal_anew(ctx: Context) -> None:
    await reseal(ctx.db, ctx.sealing, [SealedColumn(table, column, "id") for table, column in SEALED])
