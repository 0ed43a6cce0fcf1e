"""API keys."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.keys import ApiKey, CreatedApiKey, CreateKey, GetKey, ListKeys, RevokeKey, UpdateKey
from libs.common.contracts.paging import Page
from services.auth import keys
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(CreateKey)
async def create_key(query: CreateKey, ctx: Context) -> CreatedApiKey:
    return await keys.create(ctx, query)


@handlers.on(ListKeys)
async def list_keys(query: ListKeys, ctx: Context) -> Page[ApiKey]:
    return await keys.list_of(ctx, query)


@handlers.on(GetKey)
async def get_key(query: GetKey, ctx: Context) -> ApiKey:
    return await keys.get(ctx, query.key_id)


@handlers.on(UpdateKey)
async def update_key(query: UpdateKey, ctx: Context) -> ApiKey:
    return await keys.update(ctx, query)


@handlers.on(RevokeKey)
async def revoke_key(query: RevokeKey, ctx: Context) -> ApiKey:
    return await keys.revoke(ctx, query)
