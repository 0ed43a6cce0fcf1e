"""How much was used, by whom, of what."""

from typing import Final

from libs.common import model_patterns, paging
from libs.common.contracts.auth.usage import CountTokens, GetUsage, Span, UsageRow
from libs.common.contracts.paging import Page
from libs.common.database import Transaction
from libs.common.errors import InvalidRequest
from services.auth.context import Context
from services.auth.store import ledger as ledger_store

MOST_SKIPPED: Final = 1_000_000


async def get(ctx: Context, query: GetUsage) -> Page[UsageRow]:
    skip = _skip(query.page.cursor)
    async with ctx.db.transaction(query.organization_id) as tx:
        rows = await ledger_store.usage(tx, query, await _models(tx, query), skip)
    return paging.page(rows, query.page, _shown, lambda _row: (skip + query.page.limit,))


async def _models(tx: Transaction, query: GetUsage) -> list[str] | None:
    """Under these names; None: any."""
    if query.model is not None:
        named = [query.model, query.model.removesuffix(":latest")]  # virtual models need not have a tag
    elif query.patterns:
        named = await ledger_store.models_used(tx, query.organization_id)
    else:
        return None
    return [model for model in named if model_patterns.match_all(query.patterns, model)]


def _skip(cursor: str) -> int:
    """Sums have no key to go on after. Raises ``InvalidRequest``."""
    decoded = paging.decode(cursor, int)
    skip = int(decoded[0]) if decoded else 0
    if not 0 <= skip <= MOST_SKIPPED:
        raise InvalidRequest("cursor is not one")
    return skip


async def count_tokens(ctx: Context, query: CountTokens) -> tuple[int, ...]:
    async with ctx.db.transaction(query.organization_id) as tx:
        return tuple([await _tokens(tx, query.organization_id, span) for span in query.spans])


async def _tokens(tx: Transaction, organization_id: str, span: Span) -> int:
    by_model = await ledger_store.tokens_by_model(tx, organization_id, span.since, span.user_id, span.key_id)
    return sum(tokens for model, tokens in by_model.items() if model_patterns.matches(span.models, model))


def _shown(row: ledger_store.Used) -> UsageRow:
    return UsageRow.model_validate(row, from_attributes=True)
