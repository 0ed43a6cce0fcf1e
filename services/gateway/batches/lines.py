"""One line of a batch: run as the door of its endpoint would, for who made the batch, and noted as OpenAI does."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

import orjson
import structlog
from starlette.datastructures import Headers
from starlette.responses import Response

from libs.common import actor
from libs.common.contracts.auth.identity import DescribeCaller, Identity
from libs.common.contracts.permissions import Permission
from libs.common.errors import (
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    RateLimited,
    ReplayDiverged,
    RequestCancelled,
    ServiceError,
    StreamLost,
    Unauthenticated,
    Unavailable,
)
from libs.common.sealing import CannotOpenError
from services.gateway.api.door import Call, Dialect, Handler
from services.gateway.api.json_body import decode
from services.gateway.api.ollama.chat import chat
from services.gateway.api.ollama.embed import embed
from services.gateway.api.ollama.generate import generate
from services.gateway.api.ollama.wire import OLLAMA
from services.gateway.api.openai.chat import chat_completions
from services.gateway.api.openai.completions import completions
from services.gateway.api.openai.embeddings import embeddings
from services.gateway.api.openai.errors import OPENAI
from services.gateway.batches.following import Following
from services.gateway.batches.reading import place_of
from services.gateway.batches.results import KEY_GONE, answer_line
from services.gateway.context import Context
from services.gateway.limits import LimitReached
from services.gateway.permissions import check
from services.gateway.store.batch_lines import ClaimedLine

log = structlog.get_logger(__name__)

ENDPOINTS: Final[Mapping[str, tuple[Handler, Dialect]]] = {
    "/v1/chat/completions": (chat_completions, OPENAI),
    "/v1/completions": (completions, OPENAI),
    "/v1/embeddings": (embeddings, OPENAI),
    "/api/chat": (chat, OLLAMA),
    "/api/generate": (generate, OLLAMA),
    "/api/embed": (embed, OLLAMA),
}

NO_ROOM: Final = (RateLimited, Overloaded, Unavailable)
"""The line waits, and its whole batch with it."""

LOST: Final = (StreamLost, ReplayDiverged, RequestCancelled)
"""Nothing is wrong with the request: it is asked again."""

MOST_LOSSES: Final = 20
"""Of a line. One more is its answer."""

SHORTEST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0


@dataclass(frozen=True)
class Answered:
    line: bytes
    succeeded: bool


@dataclass(frozen=True)
class Later:
    """As a new request, when the batch has waited for so long."""

    seconds: float = 0.0
    lost: bool = False


def request_id_of(line: ClaimedLine) -> str:
    """The same for every gateway: who takes the line over follows what runs already."""
    return uuid5(NAMESPACE_OID, f"{line.id}/{line.tries}").hex


async def run_line(ctx: Context, line: ClaimedLine, following: Following) -> Answered | Later:
    """Raises nothing but what cancels it."""
    try:
        request = await asyncio.to_thread(_opened, ctx, line)
    except CannotOpenError:
        return Answered(answer_line(line.id, None, error=KEY_GONE), succeeded=False)
    custom_id = request["custom_id"]
    try:
        response = await _respond(ctx, line, request["body"], following)
    except _NoCallerError as error:
        return Answered(answer_line(line.id, custom_id, error=(error.code, str(error))), succeeded=False)
    except ServiceError as error:
        if (later := _later(error, following, line.losses)) is not None:
            return later
        response = ENDPOINTS[line.endpoint][1].error(error, following.request_id)
    return Answered(_noted(line, custom_id, following, response), succeeded=response.status_code < 400)


def _opened(ctx: Context, line: ClaimedLine) -> dict[str, Any]:
    """Read as it was when it was checked. Raises ``CannotOpenError``."""
    request: dict[str, Any] = decode(ctx.sealing.open(line.sealed, place_of("sealed", line.id)))
    return request


class _NoCallerError(Exception):
    """Who made the batch may not run it any more."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(f"who made this batch may not run requests any more: {error.message}")
        self.code = error.code


async def _respond(ctx: Context, line: ClaimedLine, body: dict[str, Any], following: Following) -> Response:
    """Raises ``_NoCallerError`` and ``ServiceError``."""
    caller = await _caller(ctx, line, following.request_id)
    call = Call(
        ctx=replace(ctx, start_inference=following),
        caller=caller,
        headers=Headers(),
        scope={"method": "POST", "path": line.endpoint},
        body=_whole(line.endpoint, body),
        priority="idle",
    )
    try:
        return await ENDPOINTS[line.endpoint][0](call)
    except ServiceError:
        raise
    except Exception as error:
        log.exception("a line of a batch crashed", line=line.id)
        raise ServiceError from error


def _whole(endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ollama's doors stream unless told otherwise; OpenAI's refuse what asks for a stream."""
    if not endpoint.startswith("/api/"):
        return body
    return {name: value for name, value in body.items() if name.lower() != "stream"} | {"stream": False}


async def _caller(ctx: Context, line: ClaimedLine, request_id: str) -> Identity:
    """With the rights of now. From here on this task acts for them."""
    actor.become(
        actor.Actor(
            organization_id=line.organization_id,
            user_id=line.user_id,
            key_id=line.key_id or "",
            request_id=request_id,
        )
    )
    try:
        caller = await ctx.bus.ask(DescribeCaller())
        check(caller, Permission.INFERENCE_RUN)
    except (Unauthenticated, Forbidden) as error:
        raise _NoCallerError(error) from None
    return caller


def _later(error: ServiceError, following: Following, losses: int) -> Later | None:
    """None for what is the answer, as it is when a quota runs out in the middle: the half of it is paid for."""
    if isinstance(error, LimitReached) and following.began:
        return None
    if isinstance(error, NO_ROOM):
        return Later(min(max(error.retry_after or SHORTEST_WAIT, SHORTEST_WAIT), LONGEST_WAIT))
    lost = isinstance(error, LOST) and losses < MOST_LOSSES
    never_began = isinstance(error, DeadlineExceeded) and not following.began
    return Later(lost=lost) if lost or never_began else None


def _noted(line: ClaimedLine, custom_id: str, following: Following, response: Response) -> bytes:
    noted = {
        "status_code": response.status_code,
        "request_id": following.request_id,
        "body": orjson.Fragment(bytes(response.body)),
    }
    return answer_line(line.id, custom_id, response=noted)
