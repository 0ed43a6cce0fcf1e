"""Every SQL statement of the scheduler."""

from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.database import Transaction


@dataclass(frozen=True)
class JournalRow:
    """One request as it ended. Times are seconds since the epoch."""

    request_id: str
    organization_id: str
    user_id: str | None
    key_id: str | None
    model: str
    kind: str
    outcome: str
    accepted_at: float
    worker_id: str | None = None
    attempts: int = 0
    done_reason: str = ""
    error_code: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    granted_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None


async def insert_requests(tx: Transaction, rows: Sequence[JournalRow]) -> None:
    """Redelivered events change nothing: the first row of a request stands."""
    async with tx.cursor() as cursor:
        await cursor.executemany(
            """
            insert into inference_requests (
                request_id, organization_id, user_id, key_id, model, kind, outcome, worker_id, attempts, done_reason,
                error_code, prompt_tokens, completion_tokens, accepted_at, granted_at, first_token_at, finished_at
            ) values (
                %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
                to_timestamp(%s), to_timestamp(%s), to_timestamp(%s), coalesce(to_timestamp(%s), now())
            ) on conflict (request_id) do nothing
            """,
            [
                (
                    row.request_id,
                    row.organization_id,
                    row.user_id,
                    row.key_id,
                    row.model,
                    row.kind,
                    row.outcome,
                    row.worker_id,
                    row.attempts,
                    row.done_reason,
                    row.error_code,
                    row.prompt_tokens,
                    row.completion_tokens,
                    row.accepted_at,
                    row.granted_at,
                    row.first_token_at,
                    row.finished_at,
                )
                for row in rows
            ],
        )
