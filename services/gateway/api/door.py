"""How a request enters, whatever its dialect: caller, body, handler, answer; refused in the dialect's own words."""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import msgspec
import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common import actor
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.inference import Priority
from libs.common.contracts.permissions import Permission
from libs.common.errors import InvalidRequest, RequestCancelled, ServiceError
from libs.common.limits.store import State
from libs.common.telemetry import mark_current_failed, server_span
from libs.common.web import retry_after_header
from services.gateway.api import limit_headers
from services.gateway.api.caller import act_for, admit_caller
from services.gateway.api.compression import check_plain
from services.gateway.api.connection import while_connected
from services.gateway.api.guard import CAME_AT, REQUEST_ID
from services.gateway.api.json_body import MissingBody, parse_json, read_body
from services.gateway.context import Context
from services.gateway.limits import LimitReached
from services.gateway.permissions import check

log = structlog.get_logger(__name__)

DEADLINE: Final = "X-Deadline-Ms"
"""How long the caller waits for the end of an inference; without effect elsewhere."""

_MILLISECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


class Body(Enum):
    """What a door makes of a request's body before its handler runs."""

    NONE = auto()
    JSON = auto()
    STREAM = auto()
    """Nothing: the handler reads it as it comes, in any size."""


@dataclass(frozen=True)
class Call:
    """One request of a known caller. ``body``: None, its JSON value, or an ``AsyncIterator[bytes]``."""

    ctx: Context
    caller: Identity
    headers: Headers
    scope: Scope
    body: Any
    priority: Priority = "interactive"
    deadline_seconds: float | None = None
    """None: as long as the settings allow."""

    answer_headers: dict[str, str] = field(default_factory=dict)
    """Sent with whatever is answered."""

    limits: list[State] = field(default_factory=list)
    """Of the caller, the nearest first: told with whatever is answered."""

    def name_request(self, request_id: str) -> None:
        """Answer with this X-Request-Id, not with one that means nothing elsewhere."""
        self.scope[REQUEST_ID] = request_id
        actor.become(msgspec.structs.replace(actor.current(), request_id=request_id))


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Told:
    """What headers of an answer may say."""

    request_id: str
    seconds: float
    """Since the request came."""

    limits: Sequence[State]
    """The nearest first; empty for who has none, and where nothing was asked of a model."""


def standard_headers(told: Told) -> dict[str, str]:
    return limit_headers.standard(told.limits)


@dataclass(frozen=True)
class Dialect:
    """A dialect's words for what is no answer, and the headers of every answer."""

    error: Callable[[ServiceError, str], Response]
    """Its status and body; with the request's id, for bodies that tell it."""

    headers: Callable[[Told], dict[str, str]] = standard_headers
    missing_body: str = "missing request body"


class Door:
    """An ASGI endpoint. The handler and its response run only while the client is there."""

    def __init__(
        self,
        handler: Handler,
        dialect: Dialect,
        permission: Permission,
        body: Body,
        *,
        downloads: bool = False,
    ) -> None:
        """``downloads``: what it answers takes as long as the bytes of a blob."""
        self._transfers = downloads or body is Body.STREAM
        self._handler = handler
        self._dialect = dialect
        self._permission = permission
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            call = await self._enter(request)
        except RequestCancelled:
            return  # the client went away while it sent its body
        except Exception as error:
            refused = self._refuse(error, scope)
            self._tell(refused, scope, ())
            await refused(scope, receive, send)
            return
        if self._body is Body.STREAM:
            await self._answer(call, receive, send)  # who reads the body sees by itself that the client went away
        else:
            await while_connected(receive, self._answer(call, receive, send))

    async def _enter(self, request: Request) -> Call:
        ctx: Context = request.app.state.context
        caller = await admit_caller(ctx, request.headers)
        act_for(caller)
        check(caller, self._permission)
        deadline_seconds = _deadline_seconds(request.headers, ctx.settings.request_deadline_seconds)
        body = await self._read(request, ctx)
        return Call(ctx, caller, request.headers, request.scope, body, deadline_seconds=deadline_seconds)

    async def _read(self, request: Request, ctx: Context) -> Any:
        match self._body:
            case Body.NONE:
                return None
            case Body.JSON:
                content = await read_body(
                    request.receive,
                    request.headers,
                    ctx.settings.max_body_bytes,
                    lambda: ctx.transfers.one_more(ctx.settings.transfers_per_caller),
                )
                return await self._parse(content)
            case Body.STREAM:
                check_plain(request.headers.get("content-encoding", ""))
                return _chunks(request.receive)

    async def _parse(self, content: bytes) -> Any:
        try:
            return await parse_json(content)
        except MissingBody:
            raise InvalidRequest(self._dialect.missing_body) from None

    async def _answer(self, call: Call, receive: Receive, send: Send) -> None:
        with server_span(f"{call.scope['method']} {call.scope['path']}", call.headers), ExitStack() as stack:
            response = await self._respond(call, stack)
            self._tell(response, call.scope, call.limits)
            response.headers.update(call.answer_headers)
            await response(call.scope, receive, send)

    async def _respond(self, call: Call, until_answered: ExitStack) -> Response:
        try:
            if self._transfers:
                until_answered.enter_context(call.ctx.transfers.one_more(call.ctx.settings.transfers_per_caller))
            return await self._handler(call)
        except Exception as error:
            if isinstance(error, LimitReached):
                call.limits[:] = error.states
            return self._refuse(error, call.scope)

    def _refuse(self, error: Exception, scope: Scope) -> Response:
        """The edge of the web: a defect of ours becomes an answer that tells nothing of the inside."""
        if not isinstance(error, ServiceError):
            log.error("a request crashed", exc_info=error)
            error = ServiceError()
        if error.status >= 500:
            mark_current_failed(error.code)
        response = self._dialect.error(error, scope[REQUEST_ID])
        response.headers.update(retry_after_header(error.status, error.retry_after))
        return response

    def _tell(self, response: Response, scope: Scope, limits: Sequence[State]) -> None:
        told = Told(scope[REQUEST_ID], time.monotonic() - scope[CAME_AT], limits)
        response.headers.update(self._dialect.headers(told))


def _deadline_seconds(headers: Headers, longest: float) -> float | None:
    """Raises ``InvalidRequest``."""
    given = headers.get(DEADLINE)
    if given is None:
        return None
    if not _MILLISECONDS.fullmatch(given) or not 0 < int(given) <= longest * 1000:
        raise InvalidRequest(
            f"{DEADLINE} must be a whole number of milliseconds above 0 and at most {longest * 1000:.0f}"
        )
    return int(given) / 1000


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it comes. Raises ``RequestCancelled`` when the client goes away."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestCancelled
        yield message.get("body", b"")
        more = message.get("more_body", False)
