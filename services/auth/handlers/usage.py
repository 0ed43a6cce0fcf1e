"""The token ledger and what is asked of it."""

from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.contracts.auth.usage import CountTokens, GetUsage, ListLedger, UsageRow
from libs.common.contracts.inference import EndedRequest
from libs.common.contracts.paging import Page
from libs.common.contracts.worker import InferenceFinished
from services.auth import ledger, usage
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(InferenceFinished, ack=Ack.MANUAL, prefetch=2000)
async def enter_in_ledger(event: InferenceFinished, ctx: Context, delivery: Delivery) -> None:
    ctx.ledger.add(event, delivery)


@handlers.on(ListLedger)
async def list_ledger(query: ListLedger, ctx: Context) -> tuple[EndedRequest, ...]:
    return await ledger.page(ctx.db, query)


@handlers.on(GetUsage)
async def get_usage(query: GetUsage, ctx: Context) -> Page[UsageRow]:
    return await usage.get(ctx, query)


@handlers.on(CountTokens)
async def count_tokens(query: CountTokens, ctx: Context) -> tuple[int, ...]:
    return await usage.count_tokens(ctx, query)
