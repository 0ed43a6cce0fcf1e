"""Limits."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.limits import DeleteLimits, GetLimits, ListLimits, PutLimits, SetLimits
from libs.common.contracts.paging import Page
from services.auth import limits
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(ListLimits)
async def list_limits(query: ListLimits, ctx: Context) -> Page[SetLimits]:
    return await limits.list_of(ctx, query)


@handlers.on(GetLimits)
async def get_limits(query: GetLimits, ctx: Context) -> SetLimits:
    return await limits.get(ctx, query)


@handlers.on(PutLimits)
async def put_limits(query: PutLimits, ctx: Context) -> SetLimits:
    return await limits.put(ctx, query)


@handlers.on(DeleteLimits)
async def delete_limits(query: DeleteLimits, ctx: Context) -> None:
    await limits.delete(ctx, query)
