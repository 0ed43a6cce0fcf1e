"""Sessions: registering, logging in, refreshing, logging out."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field, Secret
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.auth.sessions import (
    ActiveSession,
    EndSession,
    EndSessions,
    ListSessions,
    Login,
    Refresh,
    Register,
    Session,
)
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import PUBLIC, Ctx, needs
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/auth", tags=["auth"])

Reader = Annotated[Identity, needs(Permission.SELF_READ)]
Owner = Annotated[Identity, needs(Permission.SELF_MANAGE)]

# Passwords take their time, more of it under load.
PASSWORD_SECONDS = 10

JWKS_KEPT_SECONDS = 300

# Not SecretStr, which lets lone surrogates in: no message can carry them.
Password = Secret[Annotated[str, Field(max_length=1024)]]
Email = Annotated[str, Field(min_length=1, max_length=320, pattern=NO_NUL, examples=["ada@example.com"])]
Organization = Annotated[str, Field(max_length=63, pattern=NO_NUL, examples=["default"])]


class Credentials(Body):
    email: str = Field(max_length=320, pattern=NO_NUL, examples=["ada@example.com"])
    password: Password = Field(examples=["correct horse battery staple"])
    code: Secret[Annotated[str, Field(max_length=100)]] = Field(
        default_factory=lambda: Secret(""), description="of the second factor, or a recovery code", examples=["123456"]
    )
    organization: Organization = Field("", description="which to work in; the user's own if absent")


class RefreshToken(Body):
    refresh_token: Secret[Annotated[str, Field(max_length=200)]] = Field(examples=["omr_..."])
    organization: Organization = Field("", description="to go on in another organization; in the same if absent")


class Registration(Body):
    email: Email
    password: Password = Field(examples=["correct horse battery staple"])
    name: str = Field("", max_length=200, pattern=NO_NUL, examples=["Ada Lovelace"])
    invitation: Secret[Annotated[str, Field(max_length=200)]] = Field(
        default_factory=lambda: Secret(""), examples=["omi_..."]
    )


class Jwks(BaseModel):
    """RFC 7517."""

    keys: tuple[dict[str, Any], ...]


@router.post("/login", dependencies=[PUBLIC])
async def login(body: Credentials, ctx: Ctx) -> Session:
    """An access token for ``Authorization: Bearer``, and a refresh token for the next one.

    401 ``unauthenticated`` for a wrong email or password, which of them is not said; 401 ``second_factor_required`` if
    only the code is missing or wrong; 404 for an organization one is no member of. 429 with ``Retry-After`` after too
    many failures, 503 while too many are logging in.
    """
    query = Login(
        email=body.email,
        password=body.password.get_secret_value(),
        code=body.code.get_secret_value(),
        organization_id=body.organization,
    )
    return await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)


@router.post("/refresh", dependencies=[PUBLIC])
async def refresh(body: RefreshToken, ctx: Ctx) -> Session:
    """The next access token, and the next refresh token: each is good for one refresh.

    One that comes a second time was stolen from somebody: its session ends. So does that of a client that never got our
    answer; it has to log in again. 401 if the session has ended, 404 for an organization one is no member of.
    """
    query = Refresh(refresh_token=body.refresh_token.get_secret_value(), organization_id=body.organization)
    return await ctx.bus.ask(query)


@router.post("/register", status_code=201, dependencies=[PUBLIC])
async def register(body: Registration, ctx: Ctx) -> Session:
    """A new account, logged in. Who may have one is a setting: nobody, who has an invitation, or everybody.

    403 for who may not, 404 for an invitation that is of no use to this address, 400 for a bad password. 409 if the
    address has an account.
    """
    query = Register(
        email=body.email,
        password=body.password.get_secret_value(),
        name=body.name,
        invitation=body.invitation.get_secret_value(),
    )
    return await ctx.bus.ask(query, timeout=PASSWORD_SECONDS)


@router.post("/logout", status_code=204)
async def logout(ctx: Ctx, _caller: Owner) -> None:
    """Ends this session: its access tokens are refused from now on, everywhere. 403 for an API key."""
    await ctx.bus.ask(EndSession())


@router.get("/sessions")
async def sessions(ctx: Ctx, paging: Paging, _caller: Reader) -> Page[ActiveSession]:
    """The caller's own, in all organizations, newest first. Needs a login session: 403 for an API key."""
    return await ctx.bus.ask(ListSessions(paging=paging))


@router.delete("/sessions", status_code=204)
async def end_others(ctx: Ctx, _caller: Owner) -> None:
    """Ends all of the caller's sessions but this one. 403 for an API key."""
    await ctx.bus.ask(EndSessions(keep_current=True))


@router.delete("/sessions/{session_id}", status_code=204)
async def end(session_id: UUID, ctx: Ctx, _caller: Owner) -> None:
    """Ends one of the caller's own. 404 if it is none, or has ended. 403 for an API key."""
    await ctx.bus.ask(EndSession(session_id=str(session_id)))


@router.get("/jwks", dependencies=[PUBLIC])
async def jwks(response: Response, ctx: Ctx) -> Jwks:
    """The keys that access tokens are signed with, now, soon, and until lately, as a JSON Web Key Set."""
    response.headers["Cache-Control"] = f"public, max-age={JWKS_KEPT_SECONDS}"
    return Jwks(keys=(await ctx.identities.signing_keys()).keys)
