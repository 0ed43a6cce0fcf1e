"""What was asked and answered, for organizations that want it kept: sealed, and for a time."""

import asyncio
from typing import Final

import structlog

from libs.common.contracts.scheduler.requests import Exchange, StoreExchange
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Unavailable
from libs.common.resealing import SealedColumn, reseal
from libs.common.sealing import CannotOpenError, Place
from services.scheduler.context import Context
from services.scheduler.store import exchanges as exchange_store

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 60.0
BATCH: Final = 100


def _place(request_id: str) -> Place:
    return Place("stored_exchanges", "sealed", request_id)


async def keep(ctx: Context, command: StoreExchange) -> None:
    sealed = ctx.sealing.seal(command.exchange.model_dump_json().encode(), _place(command.request_id))
    async with ctx.db.transaction(command.organization_id) as tx:
        await exchange_store.insert_exchange(tx, command.request_id, command.organization_id, command.user_id, sealed)


async def read(ctx: Context, tx: Transaction, request_id: str) -> Exchange | None:
    """None if nothing is kept, or if the key it was sealed with is gone."""
    sealed = await exchange_store.get_exchange(tx, request_id)
    return None if sealed is None else opened(ctx, request_id, sealed)


def opened(ctx: Context, request_id: str, sealed: bytes) -> Exchange | None:
    """None if the key it was sealed with is gone."""
    try:
        return Exchange.model_validate_json(ctx.sealing.open(sealed, _place(request_id)))
    except CannotOpenError:
        log.error("an exchange was sealed with a key that is gone", request_id=request_id)
        return None


async def forget_organization(ctx: Context, organization: str) -> None:
    """The journal stays: it is what the ledger is held against."""
    async with ctx.db.transaction(organization) as tx:
        await exchange_store.delete_all(tx)


async def forget_old(ctx: Context) -> None:
    """Background loop."""
    while True:
        try:
            while await forget_some(ctx):
                pass
        except Unavailable as error:
            log.warning("old exchanges could not be deleted", reason=error.message)
        await asyncio.sleep(LOOK_SECONDS)


async def forget_some(ctx: Context) -> int:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        return await exchange_store.delete_older(tx, ctx.settings.exchange_days, BATCH)


async def seal_anew(ctx: Context) -> None:
    """Background loop."""
    await reseal(ctx.db, ctx.sealing, [SealedColumn("stored_exchanges", "sealed", "request_id")])
