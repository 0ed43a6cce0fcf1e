"""Sessions: logging in and what follows."""

from pydantic import Field

from libs.common.contracts.auth.users import User
from libs.common.contracts.message import Query, Value
from libs.common.contracts.paging import Page, PageRequest


class Session(Value):
    """A signed access token (RS256 JWT), and the token that gets the next one, once."""

    access_token: str = Field(repr=False)
    token_type: str = "bearer"  # noqa: S105  a kind of token, not one
    expires_in: int = Field(description="seconds that the access token is good for")
    refresh_token: str = Field(repr=False)
    refresh_expires_in: int = Field(description="seconds")
    organization_id: str
    user: User


class Login(Query[Session]):
    """``Unauthenticated`` for an unknown user and for a wrong password alike; ``RateLimited`` after too many of them.

    ``SecondFactorRequired`` if only the code is missing. ``NotFound`` for an organization the user is no member of.
    """

    email: str
    password: str = Field(repr=False)
    code: str = Field("", repr=False, description="of the second factor, or a recovery code")
    organization_id: str = Field("", description="which to work in; empty: the user's own")


class Refresh(Query[Session]):
    """``Unauthenticated`` if the session has ended, which it does when a token comes that was used before."""

    refresh_token: str = Field(repr=False)
    organization_id: str = Field("", description="to go on in another organization; empty: in the same")


class Register(Query[Session]):
    """``Forbidden`` while registration is closed; ``NotFound`` for an invitation that is of no use to this address.

    ``Conflict`` if the address has an account, ``InvalidRequest`` for what is no address and for a bad password.
    """

    email: str
    password: str = Field(repr=False)
    name: str = ""
    invitation: str = Field("", repr=False)


class ActiveSession(Value):
    """Times are seconds since the epoch."""

    id: str
    organization_id: str
    ip: str = Field(description="of the last login or refresh")
    user_agent: str
    created_at: float
    last_used_at: float = Field(description="when it was last refreshed")
    expires_at: float = Field(description="unless it is refreshed before")
    current: bool = Field(description="the one that asks")


class ListSessions(Query[Page[ActiveSession]]):
    """The caller's own, newest first."""

    paging: PageRequest = PageRequest()


class EndSession(Query[None]):
    """One of the caller's own; empty: the one that asks. ``NotFound`` if it is none."""

    session_id: str = ""


class EndSessions(Query[None]):
    """All of the caller's own."""

    keep_current: bool = False
