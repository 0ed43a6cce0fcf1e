"""The second factor: setting up one's own, resetting a member's, and who must have one."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field, Secret
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
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
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform.auth import PASSWORD_SECONDS, Password
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch, tag
from services.gateway.api.platform.organizations import OrganizationInPath
from services.gateway.api.platform.text import NO_NUL

router = APIRouter()

Self = Annotated[Identity, needs(Permission.SELF_MANAGE)]
Manager = Annotated[Identity, needs(Permission.ORGANIZATION_MANAGE)]

Code = Secret[Annotated[str, Field(max_length=100, pattern=NO_NUL)]]


class WithPassword(Body):
    password: Password = Field(description="the caller's, once more", examples=["correct horse battery staple"])


class WithCode(Body):
    code: Code = Field(description="six digits, as the app shows them", examples=["123456"])


class WithPasswordAndCode(WithPassword):
    code: Code = Field(description="of the app, or a recovery code", examples=["123456"])


class Policy(Body):
    roles: tuple[Annotated[str, Field(min_length=1, max_length=63, pattern=NO_NUL)], ...] = Field(
        max_length=50, description="names of roles", examples=[["admin", "operator"]]
    )


@router.get("/auth/totp", tags=["auth"])
async def second_factor(ctx: Ctx, _caller: Annotated[Identity, needs(Permission.SELF_READ)]) -> SecondFactor:
    """Whether the caller has a second factor, and whether the caller's role must have one. Needs a login session."""
    return await ctx.bus.ask(GetSecondFactor())


@router.post("/auth/totp", status_code=201, tags=["auth"])
async def offer(body: WithPassword, ctx: Ctx, _caller: Self) -> OfferedTotp:
    """A secret for the caller's authenticator app. Nothing changes until a code of it has been verified.

    Needs a login session. 403 for a wrong password, 409 if a second factor is active.
    """
    return await ctx.bus.ask(OfferTotp(password=body.password.get_secret_value()), timeout=PASSWORD_SECONDS)


@router.post("/auth/totp/verify", tags=["auth"])
async def verify(body: WithCode, ctx: Ctx, _caller: Self) -> RecoveryCodes:
    """With a code of the app the second factor is active: each login asks for one. Answers the recovery codes, once.

    Needs a login session. 403 for a wrong code, 429 after some of them, 404 if nothing was offered, 409 if it is active
    already.
    """
    return await ctx.bus.ask(ActivateTotp(code=body.code.get_secret_value()))


@router.post("/auth/totp/recovery-codes", status_code=201, tags=["auth"])
async def renew_recovery_codes(body: WithPasswordAndCode, ctx: Ctx, _caller: Self) -> RecoveryCodes:
    """New recovery codes, shown once; the old ones are good for nothing then.

    Needs a login session. 403 for a wrong password or code, 404 without a second factor.
    """
    query = RenewRecoveryCodes(password=body.password.get_secret_value(), code=body.code.get_secret_value())
    return await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)


@router.delete("/auth/totp", status_code=204, tags=["auth"])
async def remove(body: WithPasswordAndCode, ctx: Ctx, _caller: Self) -> None:
    """Logins ask for the password alone from then on.

    Needs a login session. 403 for a wrong password or code, 404 without a second factor.
    """
    query = RemoveTotp(password=body.password.get_secret_value(), code=body.code.get_secret_value())
    await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)


@router.delete("/users/{user_id}/totp", status_code=204, tags=["users"])
async def reset(user_id: UUID, ctx: Ctx, _caller: Annotated[Identity, needs(Permission.USER_MANAGE)]) -> None:
    """For a member who has lost phone and recovery codes: the password alone is enough for the next login.

    403 for oneself, for members who may do more than the caller, and for those who belong to other organizations too,
    unless the caller manages tenants. 404 for others, and without a second factor.
    """
    await ctx.bus.ask(ResetTotp(user_id=str(user_id)))


@router.get("/organizations/{organization_id}/second-factor-policy", tags=["organizations"])
async def policy(
    organization_id: OrganizationInPath, response: Response, ctx: Ctx, _caller: Manager
) -> SecondFactorPolicy:
    """Roles whose members must have a second factor. 404 for an organization that is not the caller's to manage."""
    found = await ctx.bus.ask(GetSecondFactorPolicy(organization_id=organization_id))
    tag(response, found.version)
    return found


@router.put("/organizations/{organization_id}/second-factor-policy", tags=["organizations"])
async def put_policy(
    organization_id: OrganizationInPath, body: Policy, expected: IfMatch, response: Response, ctx: Ctx, _caller: Manager
) -> SecondFactorPolicy:
    """Members with one of these roles who have no second factor may do nothing but set one up, from now on.

    400 for a role that is not there, 404 for an organization that is not the caller's to manage, 412 if the
    organization has changed since.
    """
    query = PutSecondFactorPolicy(organization_id=organization_id, roles=body.roles, expected_version=expected)
    changed = await ctx.bus.ask(query)
    tag(response, changed.version)
    return changed
