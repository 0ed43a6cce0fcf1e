"""Limits: who may use how much."""

from typing import Literal

from pydantic import Field

from libs.common.contracts.auth.identity import Limits
from libs.common.contracts.message import Query, Value
from libs.common.contracts.paging import Page, PageRequest

Scope = Literal["key", "user", "organization", "model"]


class SetLimits(Value):
    """Limits of one key, one member, the whole organization, or its use of the models that a pattern matches."""

    scope: Scope
    id: str = Field(description="of the key, user or organization; the pattern of the models, as in the shell")
    limits: Limits
    version: int


class ListLimits(Query[Page[SetLimits]]):
    organization_id: str
    page: PageRequest = PageRequest()


class GetLimits(Query[SetLimits]):
    """``NotFound`` if none are set."""

    organization_id: str
    scope: Scope
    id: str


class PutLimits(Query[SetLimits]):
    """Sets or replaces. ``NotFound`` if the organization has no such key or member; ``PreconditionFailed``."""

    organization_id: str
    scope: Scope
    id: str
    limits: Limits
    expected_version: int | None = None


class DeleteLimits(Query[None]):
    """``NotFound`` if none are set; ``PreconditionFailed``."""

    organization_id: str
    scope: Scope
    id: str
    expected_version: int | None = None
