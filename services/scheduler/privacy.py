"""What the scheduler knows of one person: requests, and what was asked and answered."""

from typing import Any, Final

from libs.common.contracts.exports import ExportedRows
from libs.common.contracts.scheduler.requests import UserRequests
from libs.common.database import EVERY_ORGANIZATION, Transaction
from services.scheduler import exchanges
from services.scheduler.context import Context
from services.scheduler.store import privacy as privacy_store

MOST_EXCHANGES: Final = 200
MOST_EXCHANGED_BYTES: Final = 4 * 1024 * 1024


async def export(ctx: Context, user_id: str, organization_id: str | None) -> UserRequests:
    async with ctx.db.transaction(organization_id or EVERY_ORGANIZATION) as tx:
        requests = await privacy_store.requests_of(tx, user_id)
        return UserRequests(requests=requests, exchanges=await _exchanges(ctx, tx, user_id))


async def _exchanges(ctx: Context, tx: Transaction, user_id: str) -> ExportedRows:
    """As many of the newest as fit."""
    sealed = await privacy_store.exchanges_of(tx, user_id, MOST_EXCHANGES + 1)
    rows: list[dict[str, Any]] = []
    room = MOST_EXCHANGED_BYTES
    for row in sealed[:MOST_EXCHANGES]:
        content = row.pop("sealed")
        room -= len(content)
        if room < 0:
            break
        if (exchange := exchanges.opened(ctx, row["request_id"], content)) is not None:
            rows.append({**row, **exchange.model_dump(mode="json")})
    return ExportedRows(rows=tuple(rows), truncated=room < 0 or len(sealed) > MOST_EXCHANGES)


async def forget(ctx: Context, user_id: str) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await privacy_store.forget_user(tx, user_id)
