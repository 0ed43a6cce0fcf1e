"""What gateways ask to know a caller."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.identity import (
    DescribeCaller,
    GetSigningKeys,
    Identity,
    SigningKeys,
    VerifyKey,
    VerifySession,
)
from services.auth import callers, identities
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(VerifyKey)
async def verify_key(query: VerifyKey, ctx: Context) -> Identity:
    return await callers.identify_key(ctx, query.digest)


@handlers.on(VerifySession)
async def verify_session(query: VerifySession, ctx: Context) -> Identity:
    return await callers.identify_session(ctx, query.session_id)


@handlers.on(DescribeCaller)
async def describe_caller(_query: DescribeCaller, ctx: Context) -> Identity:
    return await callers.acting(ctx)


@handlers.on(GetSigningKeys)
async def get_signing_keys(_query: GetSigningKeys, ctx: Context) -> SigningKeys:
    return await identities.signing_keys(ctx)
