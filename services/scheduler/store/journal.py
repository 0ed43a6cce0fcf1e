"""The SQL of the journal as a whole, to be compared with the token ledger."""

from psycopg.rows import class_row

from libs.common.contracts.inference import EndedRequest
from libs.common.database import Transaction


async def page_of_requests(tx: Transaction, accepted_since: float, after: str, limit: int) -> list[EndedRequest]:
    async with tx.cursor(row_factory=class_row(EndedRequest)) as cursor:
        await cursor.execute(
            """
            select request_id, organization_id, user_id, key_id, model, kind, outcome, prompt_tokens, completion_tokens,
                   extract(epoch from accepted_at)::float8 as accepted_at,
                   extract(epoch from finished_at)::float8 as finished_at
            from inference_requests where request_id > %s and accepted_at >= to_timestamp(%s)
            order by request_id limit %s
            """,
            [after, accepted_since, limit],
        )
        return await cursor.fetchall()
