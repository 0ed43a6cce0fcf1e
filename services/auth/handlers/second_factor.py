"""The second factor."""

from libs.common.bus.base import Handlers
from libs.common.contracts.auth.second_factor import (
    ActivateTotp,
    GetSecondFactor,
    GetSecondFactorPolicy,
    OfferedTotp,
    OfferTotp,
    PutSecondFactorPolicy,
    RecoveryCodes,
    RemoveTotp,
    RenewRecoveryCodes,
    ResetTotp,
    SecondFactor,
    SecondFactorPolicy,
)
from services.auth import second_factor_policy, totp
from services.auth.context import Context

handlers = Handlers("auth")


@handlers.on(GetSecondFactor)
async def get_second_factor(_query: GetSecondFactor, ctx: Context) -> SecondFactor:
    return await totp.state(ctx)


@handlers.on(OfferTotp)
async def offer_totp(query: OfferTotp, ctx: Context) -> OfferedTotp:
    return await totp.offer(ctx, query.password)


@handlers.on(ActivateTotp)
async def activate_totp(query: ActivateTotp, ctx: Context) -> RecoveryCodes:
    return await totp.activate(ctx, query.code)


@handlers.on(RenewRecoveryCodes)
async def renew_recovery_codes(query: RenewRecoveryCodes, ctx: Context) -> RecoveryCodes:
    return await totp.renew_recovery_codes(ctx, query.password, query.code)


@handlers.on(RemoveTotp)
async def remove_totp(query: RemoveTotp, ctx: Context) -> None:
    await totp.remove(ctx, query.password, query.code)


@handlers.on(ResetTotp)
async def reset_totp(query: ResetTotp, ctx: Context) -> None:
    await totp.reset(ctx, query.user_id)


@handlers.on(GetSecondFactorPolicy)
async def get_second_factor_policy(query: GetSecondFactorPolicy, ctx: Context) -> SecondFactorPolicy:
    return await second_factor_policy.get(ctx, query.organization_id)


@handlers.on(PutSecondFactorPolicy)
async def put_second_factor_policy(query: PutSecondFactorPolicy, ctx: Context) -> SecondFactorPolicy:
    return await second_factor_policy.put(ctx, query.organization_id, query.roles, query.expected_version)
