"""Requests as people look at them, and the journal."""

from typing import Literal

from pydantic import Field

from libs.common.contracts.exports import ExportedRows
from libs.common.contracts.inference import EndedRequest, Kind
from libs.common.contracts.message import Command, Query, Value
from libs.common.contracts.paging import Page, PageRequest
from libs.common.contracts.scheduler.decisions import AttemptDetails


class ExchangeMessage(Value):
    role: str
    content: str = Field("", repr=False)


class Exchange(Value):
    """What was asked and answered, without images. Kept only for organizations that want it, sealed."""

    messages: tuple[ExchangeMessage, ...] = Field((), repr=False)
    answer: str = Field("", repr=False)
    thinking: str = Field("", repr=False)
    truncated: bool = Field(False, description="there was more than is kept")


class StoreExchange(Command):
    request_id: str
    organization_id: str
    user_id: str | None = None
    exchange: Exchange = Field(repr=False)


RequestStatus = Literal["waiting", "running", "done", "failed", "cancelled"]


class RequestSummary(Value):
    """One inference request. Times are seconds since the epoch; what has not happened (yet) is null."""

    id: str
    status: RequestStatus
    kind: Kind
    model: str
    user_id: str | None = None
    key_id: str | None = None
    worker_id: str | None = None
    attempt_count: int = Field(0, description="how often it was given to a worker; more than one: it was moved")
    done_reason: str = ""
    error_code: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    accepted_at: float
    granted_at: float | None = Field(None, description="when a worker had a free slot for it")
    first_token_at: float | None = None
    finished_at: float | None = None


class RequestDetails(RequestSummary):
    node: str | None = Field(None, description="where it runs")
    position: int | None = Field(None, description="of a waiting one, 1 is next; null: not known")
    estimated_wait_seconds: float | None = Field(None, description="of a waiting one; null: nobody can tell")
    refused_by: dict[str, int] = Field(
        {}, description="of a waiting one: how many workers each rule keeps from running it"
    )
    attempts: tuple[AttemptDetails, ...] = Field((), description="every grant, and why it went there")
    exchange: Exchange | None = Field(None, repr=False, description="if the organization keeps them")


class ListRequests(Query[Page[RequestSummary]]):
    """Of the caller's organization, newest first. Without a status: those that have ended."""

    status: RequestStatus | None = None
    model: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    accepted_from: float | None = Field(None, description="seconds since the epoch")
    accepted_before: float | None = None
    paging: PageRequest = PageRequest()


class GetRequest(Query[RequestDetails]):
    """As it is now, or as it ended. ``NotFound`` for other organizations' requests."""

    request_id: str
    user_id: str | None = Field(None, description="null: whosever; else ``NotFound`` for those of others")


class UserRequests(Value):
    """What the scheduler has of one user."""

    requests: ExportedRows
    exchanges: ExportedRows = Field(description="their prompts and answers, as far as they are kept")


class ExportUser(Query[UserRequests]):
    user_id: str
    organization_id: str | None = Field(None, description="only what belongs to it; null: to any")


class ListJournal(Query[tuple[EndedRequest, ...]]):
    """A page of the whole journal, by request id. As ``auth.ListLedger``, to be compared with it."""

    accepted_since: float
    after: str = Field("", description="request id")
    limit: int = Field(1000, ge=1, le=5000)
