"""What auth answers and announces."""

from typing import Final

from pydantic import Field

from libs.common.contracts.message import Event, Query, Value

ISSUER: Final = "ollamamax"
"""The ``iss`` of every access token; its other claims: sub (user), org, role, email, iat, exp, jti."""


class Identity(Value):
    """Who is calling."""

    organization_id: str
    user_id: str
    key_id: str | None = None
    email: str = ""
    role: str = "user"


class ApiKey(Value):
    """An API key without its secret."""

    id: str
    name: str
    prefix: str = Field(description="the first characters of the key, to recognise it by")
    created_at: float
    last_used_at: float | None = None
    expires_at: float | None = None


class CreatedApiKey(ApiKey):
    key: str = Field(description="omx_...; shown once, stored only as a hash")


class Session(Value):
    """A signed access token (RS256 JWT) and how long it is good for."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105  a kind of token, not one
    expires_in: int = Field(description="seconds")


class SigningKeys(Value):
    """Public keys in JWK form, as of RFC 7517."""

    keys: tuple[dict[str, str], ...]


class VerifyKey(Query[Identity]):
    """Whose key has this SHA-256 digest? ``Unauthenticated`` if nobody's, or no longer."""

    digest: str


class Login(Query[Session]):
    """``Unauthenticated`` for an unknown user and for a wrong password alike."""

    email: str
    password: str = Field(repr=False)


class GetSigningKeys(Query[SigningKeys]):
    """The keys that access tokens are signed with."""


class CreateKey(Query[CreatedApiKey]):
    user_id: str
    name: str
    expires_at: float | None = None


class ListKeys(Query[tuple[ApiKey, ...]]):
    user_id: str


class RevokeKey(Query[ApiKey]):
    """``NotFound`` if this user has no such key."""

    user_id: str
    key_id: str


class KeyRevoked(Event):
    """Forget what you know about this key, now."""

    digest: str
