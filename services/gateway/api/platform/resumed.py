"""An answer that is read on: a line of JSON for each frame, with all that is in it, whatever the request was."""

from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common.contracts.tokens import Frame, StreamEnd, unpack_vector
from libs.common.errors import ServiceError
from services.gateway.api.connection import while_connected
from services.gateway.api.ollama.lines import logprob
from services.gateway.api.ollama.wire import encode
from services.gateway.context import Context

_OBJECTS: Final[dict[str, Any]] = {"type": "array", "items": {"type": "object"}}

LINES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "One line of JSON for each piece",
        "content": {
            "application/x-ndjson": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "seq": {"type": "integer"},
                        "text": {"type": "string"},
                        "thinking": {"type": "string"},
                        "tool_calls": _OBJECTS,
                        "logprobs": _OBJECTS,
                        "done": {"type": "boolean"},
                        "done_reason": {"type": "string"},
                        "prompt_tokens": {"type": "integer"},
                        "completion_tokens": {"type": "integer"},
                        "context": {"type": "array", "items": {"type": "integer"}},
                        "embeddings": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                        "rendered": {"type": "string"},
                        "error": {"type": "object"},
                    },
                }
            }
        },
    }
}


class ResumedAnswer(Response):
    media_type = "application/x-ndjson"

    def __init__(self, ctx: Context, frames: AsyncIterator[Frame]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._ctx = ctx
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._ctx.transfers.one_more(self._ctx.settings.transfers_per_caller):  # each asks Redis all the time
            await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for frame in self._frames:
                await send({"type": "http.response.body", "body": _line(frame), "more_body": True})
        except ServiceError as error:
            broken = encode({"done": True, "error": {"code": error.code, "message": error.message}}) + b"\n"
            await send({"type": "http.response.body", "body": broken, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _line(frame: Frame) -> bytes:
    line: dict[str, Any] = {"seq": frame.seq, "text": frame.text, "done": frame.end is not None}
    if frame.thinking:
        line["thinking"] = frame.thinking
    if frame.tool_calls:
        line["tool_calls"] = frame.tool_calls
    if frame.logprobs:
        line["logprobs"] = [logprob(each) for each in frame.logprobs]
    return encode(line if frame.end is None else line | _last(frame.end)) + b"\n"


def _last(end: StreamEnd) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "done_reason": end.done_reason,
        "prompt_tokens": end.usage.prompt_tokens,
        "completion_tokens": end.usage.completion_tokens,
    }
    if end.context:
        fields["context"] = end.context
    if end.embeddings:
        fields["embeddings"] = [unpack_vector(vector) for vector in end.embeddings]
    if end.rendered is not None:
        fields["rendered"] = end.rendered
    if end.error is not None:
        fields["error"] = {"code": end.error.code, "message": end.error.message}
    return fields
