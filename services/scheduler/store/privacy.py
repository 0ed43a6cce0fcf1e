"""The SQL of one person in the journal."""

from typing import Any

from psycopg.rows import dict_row

from libs.common.contracts.exports import MOST_ROWS, ExportedRows, exported
from libs.common.database import Transaction


async def requests_of(tx: Transaction, user_id: str) -> ExportedRows:
    """As far as the transaction sees them."""
    async with tx.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            select request_id, organization_id, key_id, model, kind, outcome, done_reason, error_code, prompt_tokens,
                   completion_tokens, extract(epoch from accepted_at)::float8 as accepted_at,
                   extract(epoch from finished_at)::float8 as finished_at
            from inference_requests where user_id = %s
            order by inference_requests.accepted_at desc, request_id limit %s
            """,
            [user_id, MOST_ROWS + 1],
        )
        return exported(await cursor.fetchall())


async def exchanges_of(tx: Transaction, user_id: str, limit: int) -> list[dict[str, Any]]:
    """Sealed, newest first."""
    async with tx.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            select request_id, organization_id, extract(epoch from stored_at)::float8 as stored_at, sealed
            from stored_exchanges where user_id = %s order by stored_exchanges.stored_at desc, request_id limit %s
            """,
            [user_id, limit],
        )
        return await cursor.fetchall()


async def forget_user(tx: Transaction, user_id: str) -> None:
    """Requests stay counted, for nobody; what was asked and answered goes."""
    await tx.execute("delete from stored_exchanges where user_id = %s", [user_id])
    await tx.execute("update inference_requests set user_id = null, key_id = null where user_id = %s", [user_id])
