"""The SQL of statistics over the journal."""

from dataclasses import dataclass

from psycopg.rows import class_row

from libs.common.database import Transaction


@dataclass(frozen=True)
class Ended:
    """Of the requests that ended within a window. Quantiles are in seconds: the 50th and the 95th of a hundred."""

    requests: int
    done: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    first_token: list[float | None]
    duration: list[float | None]


async def ended_within(tx: Transaction, seconds: float) -> Ended:
    async with tx.cursor(row_factory=class_row(Ended)) as cursor:
        await cursor.execute(
            """
            select count(*) as requests,
                   count(*) filter (where outcome = 'done') as done,
                   count(*) filter (where outcome = 'failed') as failed,
                   count(*) filter (where outcome = 'cancelled') as cancelled,
                   coalesce(sum(prompt_tokens), 0)::bigint as prompt_tokens,
                   coalesce(sum(completion_tokens), 0)::bigint as completion_tokens,
                   coalesce(percentile_cont(array[0.5, 0.95]) within group (
                       order by extract(epoch from first_token_at - accepted_at)::float8
                   ), array[null, null]::float8[]) as first_token,
                   coalesce(percentile_cont(array[0.5, 0.95]) within group (
                       order by extract(epoch from finished_at - accepted_at)::float8
                   ), array[null, null]::float8[]) as duration
            from inference_requests where finished_at > now() - make_interval(secs => %s)
            """,
            [seconds],
        )
        ended = await cursor.fetchone()
        assert ended is not None
        return ended
