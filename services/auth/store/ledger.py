"""The SQL of the token ledger and of its sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from psycopg.rows import class_row

from libs.common.contracts.auth.usage import GetUsage
from libs.common.contracts.inference import EndedRequest
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import Transaction


@dataclass(frozen=True)
class Used:
    """A sum; what it is not grouped by is None."""

    day: date | None
    user_id: str | None
    key_id: str | None
    model: str | None
    requests: int
    prompt_tokens: int
    completion_tokens: int


async def insert_requests(tx: Transaction, events: Sequence[InferenceFinished]) -> None:
    """Redelivered events change nothing. In one order, so that replicas which write at once wait, not deadlock."""
    await tx.execute(
        """
        with fresh as (
            insert into token_ledger (
                request_id, organization_id, user_id, key_id, model, kind, outcome, prompt_tokens, completion_tokens,
                accepted_at, finished_at
            )
            select request, organization, member, key, model, kind, outcome, prompt, completion,
                   to_timestamp(accepted), to_timestamp(finished)
            from unnest(
                %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[],
                %s::bigint[], %s::float8[], %s::float8[]
            ) as ended (
                request, organization, member, key, model, kind, outcome, prompt, completion, accepted, finished
            )
            order by request
            on conflict (request_id) do nothing
            returning *
        )
        insert into daily_usage as sums (
            organization_id, day, user_id, key_id, model, requests, prompt_tokens, completion_tokens
        )
        select organization_id, (finished_at at time zone 'utc')::date, coalesce(user_id, ''), coalesce(key_id, ''),
               model, count(*), sum(prompt_tokens), sum(completion_tokens)
        from fresh group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
        on conflict (organization_id, day, user_id, key_id, model) do update set
            requests = sums.requests + excluded.requests,
            prompt_tokens = sums.prompt_tokens + excluded.prompt_tokens,
            completion_tokens = sums.completion_tokens + excluded.completion_tokens
        """,
        [
            [event.request_id for event in events],
            [event.organization_id for event in events],
            [event.user_id for event in events],
            [event.key_id for event in events],
            [event.model for event in events],
            [event.kind for event in events],
            [event.outcome for event in events],
            [event.prompt_tokens for event in events],
            [event.completion_tokens for event in events],
            [event.accepted_at for event in events],
            [event.finished_at for event in events],
        ],
    )


async def usage(tx: Transaction, query: GetUsage, models: Sequence[str] | None, skip: int) -> list[Used]:
    """One more than a page, so that it is known whether there is a next."""
    async with tx.cursor(row_factory=class_row(Used)) as cursor:
        await cursor.execute(
            """
            select case when %(by_day)s then day end as day,
                   case when %(by_user)s then nullif(user_id, '') end as user_id,
                   case when %(by_key)s then nullif(key_id, '') end as key_id,
                   case when %(by_model)s then model end as model,
                   sum(requests)::bigint as requests, sum(prompt_tokens)::bigint as prompt_tokens,
                   sum(completion_tokens)::bigint as completion_tokens
            from daily_usage
            where organization_id = %(organization)s
              and (%(user)s::text is null or user_id = %(user)s)
              and (%(key)s::text is null or key_id = %(key)s)
              and (%(models)s::text[] is null or model = any(%(models)s))
              and (%(since)s::date is null or day >= %(since)s)
              and (%(until)s::date is null or day <= %(until)s)
            group by 1, 2, 3, 4
            order by 1 desc, 2 nulls first, 3 nulls first, 4
            limit %(limit)s offset %(skip)s
            """,
            {
                **{f"by_{column}": column in query.group_by for column in ("day", "user", "key", "model")},
                "organization": query.organization_id,
                "user": query.user_id,
                "key": query.key_id,
                "models": None if models is None else list(models),
                "since": query.since,
                "until": query.until,
                "limit": query.page.limit + 1,
                "skip": skip,
            },
        )
        return await cursor.fetchall()


async def models_used(tx: Transaction, organization_id: str) -> list[str]:
    """Names of all that the organization has ever used."""
    rows = await tx.execute("select distinct model from daily_usage where organization_id = %s", [organization_id])
    return [str(model) for (model,) in await rows.fetchall()]


async def tokens_by_model(
    tx: Transaction, organization_id: str, since: date, user_id: str | None, key_id: str | None
) -> dict[str, int]:
    rows = await tx.execute(
        """
        select model, sum(prompt_tokens + completion_tokens)::bigint from daily_usage
        where organization_id = %(organization)s and day >= %(since)s
          and (%(user)s::text is null or user_id = %(user)s) and (%(key)s::text is null or key_id = %(key)s)
        group by model
        """,
        {"organization": organization_id, "since": since, "user": user_id, "key": key_id},
    )
    return dict(await rows.fetchall())


async def page_of_requests(tx: Transaction, accepted_since: float, after: str, limit: int) -> list[EndedRequest]:
    async with tx.cursor(row_factory=class_row(EndedRequest)) as cursor:
        await cursor.execute(
            """
            select request_id, organization_id, user_id, key_id, model, kind, outcome, prompt_tokens, completion_tokens,
                   extract(epoch from accepted_at)::float8 as accepted_at,
                   extract(epoch from finished_at)::float8 as finished_at
            from token_ledger where request_id > %s and accepted_at >= to_timestamp(%s) order by request_id limit %s
            """,
            [after, accepted_since, limit],
        )
        return await cursor.fetchall()
