"""Who is calling, and how the gateways learn it."""

from typing import Annotated, Final, Literal

from pydantic import Field

from libs.common.contracts.message import Event, Query, Value

ISSUER: Final = "ollamamax"
"""The ``iss`` of every access token; its other claims: sub (user), org, sid (session), iat, exp, jti."""


MOST_PER_MINUTE: Final = 2**31 - 1
MOST_TOKENS: Final = 10**15
"""Lua and JSON count exactly as far as this, and everybody's tokens of a month are fewer."""

Weight = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
"""Twice the weight is served twice as much, where there is not enough for all."""


class Limits(Value):
    """None: without limit. A minute is any 60 seconds; days and months are UTC's."""

    requests_per_minute: int | None = Field(None, ge=1, le=MOST_PER_MINUTE)
    tokens_per_minute: int | None = Field(None, ge=1, le=MOST_TOKENS)
    concurrent_streams: int | None = Field(None, ge=1, le=MOST_PER_MINUTE)
    tokens_per_day: int | None = Field(None, ge=1, le=MOST_TOKENS)
    tokens_per_month: int | None = Field(None, ge=1, le=MOST_TOKENS)


class AppliedLimits(Value):
    """Limits that a caller shares with everybody who has the same ``scope`` and ``id``."""

    scope: Literal["key", "user", "organization", "model"]
    id: str = Field(description="of the key; organization/user; of the organization; organization/pattern")
    models: str = Field("*", description="pattern of the models it is about, as in the shell")
    limits: Limits


class Identity(Value):
    """Who is calling, on whose behalf, and what they may do."""

    organization_id: str
    user_id: str
    key_id: str | None = None
    session_id: str | None = None
    email: str = ""
    role: str = "user"
    permissions: frozenset[str] = Field(frozenset(), description="of permissions.Permission; all that count here")
    models: tuple[tuple[str, ...], ...] = Field(
        (), description="patterns as in the shell: a model must match one of each group"
    )
    limits: tuple[AppliedLimits, ...] = ()
    organization_weight: float = Field(1.0, gt=0, description="its share where organizations compete")
    key_weight: float = Field(1.0, gt=0, description="the key's share within the organization")
    stores_prompts: bool = Field(False, description="the organization wants prompts and answers to be kept")
    expires_at: float | None = Field(None, description="of the key or session, in seconds since the epoch")


class SigningKeys(Value):
    """Public keys in JWK form, as of RFC 7517."""

    keys: tuple[dict[str, str], ...]


class VerifyKey(Query[Identity]):
    """Whose key has this SHA-256 digest? ``Unauthenticated`` if nobody's, or no longer."""

    digest: str


class VerifySession(Query[Identity]):
    """Whose session is this, of an access token whose signature is good? ``Unauthenticated`` if it has ended."""

    session_id: str


class DescribeCaller(Query[Identity]):
    """Whom this message acts for, recognised before, with the rights of now. ``Unauthenticated`` for who lost all."""


class GetSigningKeys(Query[SigningKeys]):
    """The keys that access tokens are signed with, and those whose tokens have not all expired yet."""


class IdentityChanged(Event):
    """Forget, now, whom you know by any of these. Ask again when they come back."""

    key_digest: str = ""
    session_id: str = ""
    user_id: str = ""
    organization_id: str = ""
