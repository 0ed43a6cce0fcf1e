"""Inference with what the platform adds: priorities, deadlines, and answers that can be read on after a break."""

from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.inference import Priority
from libs.common.contracts.permissions import Permission
from libs.common.contracts.tokens import Frame
from libs.common.errors import InvalidRequest, ServiceError
from libs.common.web import error_response
from services.gateway.api.door import DEADLINE, Body, Call, Dialect, Door
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.chat import chat as ollama_chat
from services.gateway.api.ollama.generate import generate as ollama_generate
from services.gateway.api.ollama.lines import Lines
from services.gateway.api.ollama.wire import encode
from services.gateway.api.platform.caller import needs

router = APIRouter(prefix="/inference", tags=["inference"])

PRIORITIES: Final[dict[str, Priority]] = {"": "interactive", "interactive": "interactive", "batch": "batch"}

Runner = Annotated[Identity, needs(Permission.INFERENCE_RUN)]


class Inference(BaseModel):
    """Describes bodies, which are read by the same code as those of Ollama's routes: null is absent."""

    model: str = Field(examples=["smollm2:135m"])
    stream: bool | None = Field(True, description="lines of JSON as they come; false: one object")
    format: Literal["json"] | dict[str, Any] | None = Field(None, description="json, or a JSON schema")
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    options: dict[str, Any] | None = Field({}, description="Ollama's options: temperature, num_predict, seed and so on")
    keep_alive: str | float | None = Field(None, description="how long the model stays in memory, as 5m or in seconds")
    priority: Priority | None = Field("interactive", description="batch waits until nobody interactive does")
    deadline_seconds: float | None = Field(
        None, gt=0, description="an error from then on; at most what the installation allows"
    )


class Message(BaseModel):
    role: str = Field(examples=["user"])
    content: str = Field("", examples=["Why is the sky blue?"])
    images: list[str] = Field([], description="base64")


class Chat(Inference):
    messages: list[Message] | None = []
    tools: list[dict[str, Any]] | None = Field([], description="functions, as Ollama and OpenAI describe them")


class Generate(Inference):
    prompt: str | None = Field("", examples=["Why is the sky blue?"])
    suffix: str | None = ""
    system: str | None = ""
    images: list[str] | None = Field([], description="base64")


class NumberedLines(Lines):
    """Ollama's lines, with the number that ``stream?after=`` asks for, and the platform's errors."""

    def _begin(self, frame: Frame) -> bytes:
        line = super()._begin(frame)
        return line + b',"seq":%d' % frame.seq if frame.seq else line

    def broken(self, error: ServiceError) -> bytes:
        return encode({"error": {"code": error.code, "message": error.message}}) + b"\n"


async def _chat(call: Call) -> Response:
    return await ollama_chat(_scheduled(call), NumberedLines)


async def _generate(call: Call) -> Response:
    return await ollama_generate(_scheduled(call), NumberedLines)


def _scheduled(call: Call) -> Call:
    """With the priority and the deadline that the body asks for. Raises ``InvalidRequest``."""
    body = Fields(call.body, "InferenceRequest")
    priority = PRIORITIES.get(body.text("priority"))
    if priority is None:
        raise InvalidRequest("priority must be interactive or batch")
    seconds, longest = body.raw("deadline_seconds"), call.ctx.settings.request_deadline_seconds
    if seconds is None:
        return replace(call, priority=priority)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= longest:
        raise InvalidRequest(f"deadline_seconds must be a number above 0 and at most {longest:g}")
    return replace(call, priority=priority, deadline_seconds=min(seconds, call.deadline_seconds or longest))


def _error(error: ServiceError, _request_id: str) -> Response:
    return error_response(error.code, error.message, error.status, error.retry_after)


_PLATFORM: Final = Dialect(_error)


class _Through(Response):
    """The rest of the request goes through this door: it reads long bodies, and sees clients go away."""

    def __init__(self, door: Door) -> None:
        super().__init__()
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._door(scope, receive, send)


_CHAT: Final = Door(_chat, _PLATFORM, Permission.INFERENCE_RUN, Body.JSON)
_GENERATE: Final = Door(_generate, _PLATFORM, Permission.INFERENCE_RUN, Body.JSON)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    for name, definition in definitions.items():
        assert name == "Message"
        schema["properties"]["messages"]["items"] = definition
    deadline = {
        "name": DEADLINE,
        "in": "header",
        "schema": {"type": "integer", "minimum": 1},
        "description": "an error from then on, in milliseconds; of it and `deadline_seconds` the shorter counts",
    }
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"parameters": [deadline], "requestBody": body}


def _answer(text: str) -> dict[int | str, dict[str, Any]]:
    """``text``: the field of an answer's line that has the text."""
    lines = {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "created_at": {"type": "string"},
            text: {},
            "seq": {"type": "integer", "description": "the last one received is `after` of a resumed stream"},
            "done": {"type": "boolean", "description": "true in the last line, which has the counts as well"},
        },
    }
    content = {"application/x-ndjson": {"schema": lines}, "application/json": {"schema": lines}}
    number = {"type": "integer"}
    headers = {
        "X-Request-Id": {"schema": {"type": "string"}, "description": "of `/inference/requests/{id}`"},
        "X-Queue-Position": {"schema": number, "description": "when it came; only if it had to wait"},
        "X-Queue-Estimated-Wait-Ms": {"schema": number, "description": "as it looked then; only if that was known"},
    }
    return {200: {"description": "The answer, in Ollama's words", "content": content, "headers": headers}}


@router.post("/chat", response_class=Response, openapi_extra=_body(Chat), responses=_answer("message"))
async def chat(_caller: Runner) -> Response:
    """As Ollama's `/api/chat`: one line of JSON for each piece, or one object without `stream`.

    `X-Request-Id` and the last `seq` are what it takes to read on after a break, through any gateway. What is not known
    here is ignored, as Ollama does.
    """
    return _Through(_CHAT)


@router.post("/generate", response_class=Response, openapi_extra=_body(Generate), responses=_answer("response"))
async def generate(_caller: Runner) -> Response:
    """As Ollama's `/api/generate`, else as `chat`."""
    return _Through(_GENERATE)
