"""Auth's doors on the bus."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth import (
    ApiKey,
    CreatedApiKey,
    CreateKey,
    GetSigningKeys,
    Identity,
    ListKeys,
    Login,
    RevokeKey,
    Session,
    SigningKeys,
    VerifyKey,
)
from services.auth import identities, keys
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(VerifyKey)
async def verify_key(query: VerifyKey, ctx: Context) -> Identity:
    return await keys.identify(ctx, query.digest)


@handlers.on(Login)
async def login(query: Login, ctx: Context) -> Session:
    return await identities.log_in(ctx, query.email, query.password)


@handlers.on(GetSigningKeys)
async def get_signing_keys(_query: GetSigningKeys, ctx: Context) -> SigningKeys:
    return await identities.signing_keys(ctx)


@handlers.on(CreateKey)
async def create_key(query: CreateKey, ctx: Context) -> CreatedApiKey:
    return await keys.create(ctx, query.user_id, query.name, query.expires_at)


@handlers.on(ListKeys)
async def list_keys(query: ListKeys, ctx: Context) -> tuple[ApiKey, ...]:
    return await keys.list_of(ctx, query.user_id)


@handlers.on(RevokeKey)
async def revoke_key(query: RevokeKey, ctx: Context) -> ApiKey:
    return await keys.revoke(ctx, query.user_id, query.key_id)
