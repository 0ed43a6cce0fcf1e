"""Models as the platform shows, finds, adds and changes them."""

from typing import Any, Literal

from pydantic import Field

from libs.common.contracts.message import Query
from libs.common.contracts.paging import Page, PageRequest
from libs.common.contracts.registry import ModelSummary

ModelStatus = Literal["ready", "pulling", "failed"]


class Model(ModelSummary):
    """A model with what its organization says of it."""

    status: ModelStatus = Field("ready", description="pulling: on its way here, perhaps anew; failed: it did not come")
    error: str = Field("", description="why it did not come the last time")
    own: bool = Field(True, description="of the caller's organization; others are shared with it")
    shared: bool = Field(False, description="all organizations see it")
    tags: tuple[str, ...] = ()
    description: str = ""
    created_by: str = Field("", description="a user id; empty for what nobody has made, and for other organizations")
    created_at: float
    version: int = Field(1, description="of tags, description and shared")


class FindModels(Query[Page[Model]]):
    """Those that are here or on their way, newest first; of the caller's organization and shared ones."""

    patterns: tuple[tuple[str, ...], ...] = Field((), description="``Identity.models``: no others are found")
    status: ModelStatus | None = None
    name: str = Field("", description="a part of the name, or a pattern as in the shell")
    tags: tuple[str, ...] = Field((), description="it has all of them")
    created_by: str = ""
    paging: PageRequest = PageRequest()


class GetModel(Query[Model]):
    """Also one on its way. ``ModelNotFound``, ``InvalidModelName``."""

    name: str


class AddModel(Query[Model]):
    """Pull it, or with ``base`` make it from that model; answered at once, ``GetModel`` tells how it goes.

    ``InvalidModelName``; ``Conflict`` while it is on its way already; ``RateLimited`` while too many are.
    """

    name: str
    base: str = ""
    system: str | None = None
    template: str | None = None
    parameters: dict[str, Any] = {}
    tags: tuple[str, ...] = ()
    description: str = ""


class ChangeModel(Query[Model]):
    """``ModelNotFound``; ``Forbidden`` for one of another organization; ``PreconditionFailed``; ``InvalidRequest``
    for sharing one that is not of the operating organization."""

    name: str
    tags: tuple[str, ...]
    description: str
    shared: bool
    expected_version: int | None = None
