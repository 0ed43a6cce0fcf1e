"""The journal as a whole, to be compared with the token ledger."""

from libs.common.bus.base import Handlers
from libs.common.contracts.inference import EndedRequest
from libs.common.contracts.scheduler.requests import ListJournal
from libs.common.database import EVERY_ORGANIZATION
from services.scheduler.context import Context
from services.scheduler.store import journal as journal_store

handlers = Handlers("scheduler")


@handlers.on(ListJournal)
async def list_journal(query: ListJournal, ctx: Context) -> tuple[EndedRequest, ...]:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        return tuple(await journal_store.page_of_requests(tx, query.accepted_since, query.after, query.limit))
