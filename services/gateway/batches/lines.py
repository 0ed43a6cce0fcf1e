"""One line of a batch: run as the door of its endpoint would, for who made the batch, and noted as OpenAI does."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
import structlog
from starlette.datastructures import Headers
from starlette.responses import Response

from libs.common.errors import InvalidRequest, ServiceError
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
from services.gateway.api.openai.responses.create import create
from services.gateway.batches.reading import place_of
from services.gateway.batches.results import KEY_GONE, answer_line
from services.gateway.context import Context
from services.gateway.durable.attempts import Later, NoCallerError, act_for_owner, later
from services.gateway.durable.following import Following
from services.gateway.store.batch_lines import ClaimedLine

log = structlog.get_logger(__name__)

ENDPOINTS: Final[Mapping[str, tuple[Handler, Dialect]]] = {
    "/v1/chat/completions": (chat_completions, OPENAI),
    "/v1/completions": (completions, OPENAI),
    "/v1/embeddings": (embeddings, OPENAI),
    "/v1/responses": (create, OPENAI),
    "/api/chat": (chat, OLLAMA),
    "/api/generate": (generate, OLLAMA),
    "/api/embed": (embed, OLLAMA),
}

NOT_WHOLE: Final = ("stream", "background")


@dataclass(frozen=True)
class Answered:
    line: bytes
    succeeded: bool


async def run_line(ctx: Context, line: ClaimedLine, following: Following) -> Answered | Later:
    """Raises nothing but what cancels it."""
    try:
        request = await asyncio.to_thread(_opened, ctx, line)
    except CannotOpenError:
        return Answered(answer_line(line.id, None, error=KEY_GONE), succeeded=False)
    custom_id = request["custom_id"]
    try:
        response = await _respond(ctx, line, request["body"], following)
    except NoCallerError as refusal:
        message = f"who made this batch may not run requests any more: {refusal.error.message}"
        return Answered(answer_line(line.id, custom_id, error=(refusal.error.code, message)), succeeded=False)
    except ServiceError as error:
        if (again := later(error, following, line.losses)) is not None:
            return again
        response = ENDPOINTS[line.endpoint][1].error(error, following.request_id)
    return Answered(_noted(line, custom_id, following, response), succeeded=response.status_code < 400)


def _opened(ctx: Context, line: ClaimedLine) -> dict[str, Any]:
    """Read as it was when it was checked. Raises ``CannotOpenError``."""
    request: dict[str, Any] = decode(ctx.sealing.open(line.sealed, place_of("sealed", line.id)))
    return request


async def _respond(ctx: Context, line: ClaimedLine, body: dict[str, Any], following: Following) -> Response:
    """Raises ``NoCallerError`` and ``ServiceError``."""
    caller = await act_for_owner(
        ctx,
        organization=line.organization_id,
        user_id=line.user_id,
        key_id=line.key_id,
        request_id=following.request_id,
    )
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
    """Ollama's doors stream unless told otherwise. Raises ``InvalidRequest`` for what asks OpenAI's for it."""
    for name in NOT_WHOLE if not endpoint.startswith("/api/") else ():
        if any(value not in (None, False) for given, value in body.items() if given.lower() == name):
            raise InvalidRequest(f"'{name}' is not supported in a batch", param=name)
    return {name: value for name, value in body.items() if name.lower() != "stream"} | {"stream": False}


def _noted(line: ClaimedLine, custom_id: str, following: Following, response: Response) -> bytes:
    noted = {
        "status_code": response.status_code,
        "request_id": following.request_id,
        "body": orjson.Fragment(bytes(response.body)),
    }
    return answer_line(line.id, custom_id, response=noted)
