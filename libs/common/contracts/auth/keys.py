"""API keys. One works in the organization it was made in, and may do at most what its owner may do there."""

from pydantic import Field

from libs.common.contracts.auth.identity import Limits, Weight
from libs.common.contracts.auth.roles import ModelPatterns, Permissions
from libs.common.contracts.message import Query, Value
from libs.common.contracts.paging import Page, PageRequest


class ApiKey(Value):
    """An API key without its secret. Times are seconds since the epoch."""

    id: str
    user_id: str = Field("", description="the owner")
    name: str
    prefix: str = Field(description="the first characters of the key, to recognise it by")
    scopes: frozenset[str] | None = Field(None, description="permissions it may use; null: all that its owner has")
    models: tuple[str, ...] = Field((), description="patterns of the models it may know of; empty: those of its owner")
    limits: Limits | None = Field(None, description="its own, beside those of its owner and organization")
    weight: float = Field(1.0, description="its share where keys of the organization compete")
    created_at: float
    last_used_at: float | None = None
    expires_at: float | None = None
    version: int = 1


class CreatedApiKey(ApiKey):
    key: str = Field(repr=False, description="omx_...; shown once, stored only as a hash")


class CreateKey(Query[CreatedApiKey]):
    """For the caller. A key makes keys that may do at most what it may do itself.

    ``InvalidRequest``, ``Forbidden`` for more than the caller has, ``Conflict`` for too many keys.
    """

    name: str
    scopes: Permissions | None = None
    models: ModelPatterns = ()
    limits: Limits | None = None
    expires_at: float | None = None
    weight: Weight | None = Field(
        None, description="null: 1, or that of the key it is made with; another one takes organization:manage"
    )


class ListKeys(Query[Page[ApiKey]]):
    """Of the caller's organization, newest first. Keys of others only for who may read users."""

    user_id: str | None = Field(None, description="whose; null: everybody's")
    paging: PageRequest = PageRequest()


class GetKey(Query[ApiKey]):
    """``NotFound`` for keys the caller may not see, and revoked ones."""

    key_id: str


class UpdateKey(Query[ApiKey]):
    """Replaces all that a key may. Effective at once."""

    key_id: str
    name: str
    scopes: Permissions | None = None
    models: ModelPatterns = ()
    limits: Limits | None = Field(
        None, description="null: none. Without organization:manage null: as they are, and others only if tighter"
    )
    expires_at: float | None = None
    weight: Weight | None = Field(None, description="null: as it is; another one takes organization:manage")
    expected_version: int | None = None


class RevokeKey(Query[ApiKey]):
    """For ever. ``NotFound`` for keys that the caller may not manage, and revoked ones."""

    key_id: str
    expected_version: int | None = None
