"""What was used, as the token ledger has it. Days are UTC's."""

from datetime import date
from typing import Literal

from pydantic import Field

from libs.common.contracts.inference import EndedRequest
from libs.common.contracts.message import Query, Value
from libs.common.contracts.paging import Page, PageRequest

Grouping = Literal["day", "user", "key", "model"]


class UsageRow(Value):
    """A sum. What it is not grouped by is null; so are the user and key of those who are gone or had none."""

    day: date | None = None
    user_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    requests: int = Field(description="that have ended: answered, failed, refused or given up")
    prompt_tokens: int
    completion_tokens: int


class GetUsage(Query[Page[UsageRow]]):
    """Newest day first, then by user, key and model. ``since`` and ``until`` are both included."""

    organization_id: str
    group_by: tuple[Grouping, ...] = ("day",)
    user_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    patterns: tuple[tuple[str, ...], ...] = Field((), description="``Identity.models``: of no other models")
    since: date | None = None
    until: date | None = None
    page: PageRequest = PageRequest()


class Span(Value):
    """Of one organization since the beginning of a day: all, or what a user, a key or some models have used."""

    since: date
    user_id: str | None = None
    key_id: str | None = None
    models: str = Field("*", description="pattern, as in the shell")


class CountTokens(Query[tuple[int, ...]]):
    """Tokens of prompts and answers, for each span: what Redis counts by, should it have forgotten."""

    organization_id: str
    spans: tuple[Span, ...]


class ListLedger(Query[tuple[EndedRequest, ...]]):
    """A page of the whole ledger, by request id. As ``scheduler.ListJournal``, to be compared with it."""

    accepted_since: float
    after: str = Field("", description="request id")
    limit: int = Field(1000, ge=1, le=5000)
