"""The token ledger: what is billed, one row a request, exactly once by request id. It reconciles with the journal."""

from collections.abc import Sequence
from typing import Final

from libs.common.batches import Batches
from libs.common.contracts.auth.usage import ListLedger
from libs.common.contracts.inference import EndedRequest
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import EVERY_ORGANIZATION, Database
from services.auth.store import ledger as ledger_store

BATCH: Final = 500


def open_ledger(db: Database) -> Batches[InferenceFinished]:
    async def write(events: Sequence[InferenceFinished]) -> None:
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            await ledger_store.insert_requests(tx, events)

    return Batches("token ledger", write, BATCH)


async def page(db: Database, query: ListLedger) -> tuple[EndedRequest, ...]:
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        return tuple(await ledger_store.page_of_requests(tx, query.accepted_since, query.after, query.limit))
