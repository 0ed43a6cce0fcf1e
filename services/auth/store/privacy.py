"""The SQL of one person: all that auth has of them, and how it is forgotten."""

from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg.rows import dict_row

from libs.common.contracts.exports import MOST_ROWS, ExportedRows, exported
from libs.common.database import Transaction

PARTS: Final[dict[str, LiteralString]] = {
    "memberships": """
        select memberships.organization_id, organizations.name as organization, memberships.role,
               extract(epoch from memberships.created_at)::float8 as joined_at
        from memberships join organizations on organizations.id = memberships.organization_id
        where user_id = %(user)s::uuid order by memberships.created_at desc limit %(limit)s
    """,
    "invitations": """
        select invitations.organization_id, invitations.role,
               extract(epoch from invitations.created_at)::float8 as created_at,
               extract(epoch from expires_at)::float8 as expires_at
        from invitations join users using (email)
        where users.id = %(user)s::uuid order by invitations.created_at desc limit %(limit)s
    """,
    "sessions": """
        select id::text, organization_id, ip, user_agent, extract(epoch from created_at)::float8 as created_at,
               extract(epoch from last_used_at)::float8 as last_used_at,
               extract(epoch from expires_at)::float8 as expires_at, extract(epoch from ended_at)::float8 as ended_at
        from user_sessions where user_id = %(user)s::uuid order by created_at desc limit %(limit)s
    """,
    "keys": """
        select id::text, organization_id, name, prefix, scopes, models,
               extract(epoch from created_at)::float8 as created_at,
               extract(epoch from expires_at)::float8 as expires_at,
               extract(epoch from last_used_at)::float8 as last_used_at,
               extract(epoch from revoked_at)::float8 as revoked_at
        from api_keys where user_id = %(user)s::uuid order by created_at desc limit %(limit)s
    """,
    "usage": """
        select organization_id, day::text, nullif(key_id, '') as key_id, model, requests, prompt_tokens,
               completion_tokens
        from daily_usage where user_id = %(user)s order by day desc, model limit %(limit)s
    """,
    "audit": """
        select extract(epoch from at)::float8 as at, service, action, object, organization_id, ip, user_agent,
               request_id
        from audit_log where user_id = %(user)s order by seq desc limit %(limit)s
    """,
}
"""What of it is a secret, or about somebody else, is not selected."""


async def profile_of(tx: Transaction, user_id: UUID) -> dict[str, Any] | None:
    async with tx.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            select users.id::text, email, name, extract(epoch from users.created_at)::float8 as created_at,
                   extract(epoch from disabled_at)::float8 as disabled_at,
                   extract(epoch from activated_at)::float8 as second_factor_activated_at
            from users left join user_totp on user_id = users.id where users.id = %s
            """,
            [user_id],
        )
        return await cursor.fetchone()


async def part_of(tx: Transaction, part: LiteralString, user_id: UUID) -> ExportedRows:
    """One of ``PARTS``, as far as the transaction sees it."""
    async with tx.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(part, {"user": str(user_id), "limit": MOST_ROWS + 1})
        return exported(await cursor.fetchall())


async def delete_user(tx: Transaction, user_id: UUID) -> None:
    """With memberships, sessions, keys, limits, the second factor and invitations they sent, which hang on it."""
    await tx.execute(
        "delete from invitations using users where users.id = %s and invitations.email = users.email", [user_id]
    )
    await tx.execute("delete from users where id = %s", [user_id])


async def forget_in_ledger(tx: Transaction, user_id: str, limit: int) -> int:
    """How many rows were theirs, of so many at most."""
    updated = await tx.execute(
        """
        update token_ledger set user_id = null, key_id = null
        where request_id in (select request_id from token_ledger where user_id = %s limit %s)
        """,
        [user_id, limit],
    )
    return updated.rowcount


async def forget_in_sums(tx: Transaction, user_id: str) -> None:
    """They become nobody's. Whoever counts waits that long, rather than for each other."""
    await tx.execute("lock table daily_usage in share row exclusive mode")
    await tx.execute(
        """
        with persons as (delete from daily_usage where user_id = %s returning *)
        insert into daily_usage as known
            (organization_id, day, user_id, key_id, model, requests, prompt_tokens, completion_tokens)
        select organization_id, day, '', '', model, sum(requests), sum(prompt_tokens), sum(completion_tokens)
        from persons group by organization_id, day, model
        on conflict (organization_id, day, user_id, key_id, model) do update set
            requests = known.requests + excluded.requests,
            prompt_tokens = known.prompt_tokens + excluded.prompt_tokens,
            completion_tokens = known.completion_tokens + excluded.completion_tokens
        """,
        [user_id],
    )


async def remember_erased(tx: Transaction, user_id: UUID) -> None:
    await tx.execute("insert into erased_users (user_id) values (%s) on conflict do nothing", [user_id])


async def due_again(tx: Transaction, every_seconds: float) -> list[UUID]:
    """Erased users whom nobody was reminded of for so long. Each is handed to one replica."""
    rows = await tx.execute(
        """
        update erased_users set announced_at = now() where announced_at < now() - make_interval(secs => %s)
        returning user_id
        """,
        [every_seconds],
    )
    return [user_id for (user_id,) in await rows.fetchall()]


async def forget_erased(tx: Transaction, after_seconds: float) -> None:
    await tx.execute("delete from erased_users where erased_at < now() - make_interval(secs => %s)", [after_seconds])
