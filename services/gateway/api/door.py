"""How a request enters, whatever its dialect: caller, body, handler, answer; refused in the dialect's own words."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common.contracts.auth import Identity
from libs.common.errors import RequestCancelled, ServiceError
from libs.common.telemetry import mark_current_failed, server_span
from libs.common.web import RETRY_AFTER_SECONDS
from services.gateway.api.caller import admit_caller
from services.gateway.api.connection import while_connected
from services.gateway.api.guard import REQUEST_ID
from services.gateway.api.json_body import parse_json, read_body
from services.gateway.context import Context
from services.gateway.permissions import Permission, check

log = structlog.get_logger(__name__)


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

    def name_request(self, request_id: str) -> None:
        """Answer with this X-Request-Id, not with one that means nothing elsewhere."""
        self.scope[REQUEST_ID] = request_id


Handler = Callable[[Call], Awaitable[Response]]
RenderError = Callable[[ServiceError], Response]


class Door:
    """An ASGI endpoint. The handler and its response run only while the client is there."""

    def __init__(self, handler: Handler, render_error: RenderError, permission: Permission, body: Body) -> None:
        self._handler = handler
        self._render_error = render_error
        self._permission = permission
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            call = await self._enter(request)
        except RequestCancelled:
            return  # the client went away while it sent its body
        except Exception as error:
            await self._refuse(error)(scope, receive, send)
            return
        if self._body is Body.STREAM:
            await self._answer(call, receive, send)  # who reads the body sees by itself that the client went away
        else:
            await while_connected(receive, self._answer(call, receive, send))

    async def _enter(self, request: Request) -> Call:
        ctx: Context = request.app.state.context
        caller = await admit_caller(ctx, request.headers)
        check(caller, self._permission)
        return Call(ctx, caller, request.headers, request.scope, await self._read(request, ctx))

    async def _read(self, request: Request, ctx: Context) -> Any:
        match self._body:
            case Body.NONE:
                return None
            case Body.JSON:
                content = await read_body(request.receive, request.headers, ctx.settings.max_body_bytes)
                return await parse_json(content)
            case Body.STREAM:
                return _chunks(request.receive)

    async def _answer(self, call: Call, receive: Receive, send: Send) -> None:
        with server_span(f"{call.scope['method']} {call.scope['path']}", call.headers):
            response = await self._respond(call)
            await response(call.scope, receive, send)

    async def _respond(self, call: Call) -> Response:
        try:
            return await self._handler(call)
        except Exception as error:
            return self._refuse(error)

    def _refuse(self, error: Exception) -> Response:
        """The edge of the web: a defect of ours becomes an answer that tells nothing of the inside."""
        if not isinstance(error, ServiceError):
            log.error("a request crashed", exc_info=error)
            error = ServiceError()
        if error.status >= 500:
            mark_current_failed(error.code)
        response = self._render_error(error)
        if error.status == 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return response


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it comes. Raises ``RequestCancelled`` when the client goes away."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestCancelled
        yield message.get("body", b"")
        more = message.get("more_body", False)
