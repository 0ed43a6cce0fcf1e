"""What happened, one row a request, written in batches off the hot path and exactly once by request id."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from redis.exceptions import RedisError

from libs.common.batches import Batches
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.errors import Unavailable
from libs.common.limits.store import LimitStore
from services.scheduler.store import requests as request_store
from services.scheduler.store.requests import JournalRow

AS_TOLD: Final = {field.name for field in fields(JournalRow)} - {"worker_id", "granted_at", "attempts", "attempt_count"}


def open_journal(db: Database, limits: LimitStore, batch_size: int) -> Batches[InferenceFinished]:
    """What a gateway that died could not settle of a caller's limits is settled here."""

    async def write(events: Sequence[InferenceFinished]) -> None:
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            await request_store.insert_requests(tx, [_row(event) for event in events])
        try:
            await limits.settle({event.request_id: event.prompt_tokens + event.completion_tokens for event in events})
        except RedisError as error:
            raise Unavailable("Redis is not available") from error

    return Batches("journal", write, batch_size)


def _row(event: InferenceFinished) -> JournalRow:
    return JournalRow(
        attempt_count=len(event.attempts),
        attempts=[attempt.model_dump() for attempt in event.attempts],
        worker_id=event.worker_id or None,
        granted_at=event.granted_at or None,
        **event.model_dump(include=AS_TOLD),
    )
