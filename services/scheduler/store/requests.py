"""The SQL of the journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from psycopg.rows import class_row
from psycopg.sql import SQL
from psycopg.types.json import Jsonb

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
    attempt_count: int = 0
    attempts: Sequence[dict[str, Any]] = ()
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
                request_id, organization_id, user_id, key_id, model, kind, outcome, worker_id, attempts, attempt_list,
                done_reason, error_code, prompt_tokens, completion_tokens, accepted_at, granted_at, first_token_at,
                finished_at
            ) values (
                %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
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
                    row.attempt_count,
                    Jsonb(list(row.attempts)),
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


_COLUMNS = SQL("""
    request_id, organization_id, user_id, key_id, model, kind, outcome, worker_id,
    attempts as attempt_count, done_reason, error_code, prompt_tokens, completion_tokens,
    extract(epoch from accepted_at)::float8 as accepted_at,
    extract(epoch from granted_at)::float8 as granted_at,
    extract(epoch from first_token_at)::float8 as first_token_at,
    extract(epoch from finished_at)::float8 as finished_at
""")


@dataclass(frozen=True)
class Wanted:
    """None: whatever it is. Times are seconds since the epoch."""

    outcome: str | None = None
    model: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    accepted_from: float | None = None
    accepted_before: float | None = None


async def list_requests(
    tx: Transaction, organization: str, wanted: Wanted, before: tuple[datetime | None, str | None], limit: int
) -> list[JournalRow]:
    """Newest first, after the row ``before``, without attempts: they are long.

    Row-level security would do, but cannot use the index.
    """
    values = {**vars(wanted), "organization": organization, "at": before[0], "id": before[1], "limit": limit}
    conditions = [SQL(text) for name, text in _CONDITIONS.items() if values[name] is not None]
    statement = SQL("""
        select {} from inference_requests where {}
        order by inference_requests.accepted_at desc, request_id desc limit %(limit)s
    """).format(_COLUMNS, SQL(" and ").join(conditions))
    async with tx.cursor(row_factory=class_row(JournalRow)) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()


_CONDITIONS: Final[dict[str, LiteralString]] = {
    "organization": "organization_id = %(organization)s",
    "outcome": "outcome = %(outcome)s",
    "model": "model = %(model)s",
    "user_id": "user_id = %(user_id)s",
    "key_id": "key_id = %(key_id)s",
    "accepted_from": "inference_requests.accepted_at >= to_timestamp(%(accepted_from)s)",
    "accepted_before": "inference_requests.accepted_at < to_timestamp(%(accepted_before)s)",
    "at": "(inference_requests.accepted_at, request_id) < (%(at)s, %(id)s)",
}
"""Only those that are asked for, so that each has the plan it needs."""


async def get_request(tx: Transaction, request_id: str) -> JournalRow | None:
    """Of the organization that the transaction works for."""
    async with tx.cursor(row_factory=class_row(JournalRow)) as cursor:
        await cursor.execute(
            SQL("select {}, attempt_list as attempts from inference_requests where request_id = %s").format(_COLUMNS),
            [request_id],
        )
        return await cursor.fetchone()
