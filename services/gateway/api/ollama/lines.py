"""A generated answer as NDJSON lines, or as the one object that sums them up."""

from collections.abc import Callable
from typing import Any

from libs.common.contracts.tokens import Frame, StreamEnd
from libs.common.errors import ServiceError
from services.gateway.api.ollama.wire import encode, final_fields, now

RenderText = Callable[[Frame], bytes]


def chat_message(frame: Frame) -> bytes:
    if not frame.thinking and not frame.tool_calls:
        return b'"message":{"role":"assistant","content":' + encode(frame.text) + b"}"
    message: dict[str, Any] = {"role": "assistant", "content": frame.text}
    if frame.thinking:
        message["thinking"] = frame.thinking
    if frame.tool_calls:
        message["tool_calls"] = frame.tool_calls
    return b'"message":' + encode(message)


def generated_text(frame: Frame) -> bytes:
    text = b'"response":' + encode(frame.text)
    if frame.thinking:
        text += b',"thinking":' + encode(frame.thinking)
    if frame.tool_calls:
        text += b',"tool_calls":' + encode(frame.tool_calls)
    return text


class Lines:
    """``started_ns``: ``time.perf_counter_ns()`` when the request came, for its total duration."""

    media_type = "application/x-ndjson"

    def __init__(self, model: str, render_text: RenderText, started_ns: int, *, with_context: bool = False) -> None:
        self._head = b'{"model":' + encode(model) + b',"created_at":"'
        self._render_text = render_text
        self._started_ns = started_ns
        self._with_context = with_context

    def chunk(self, frame: Frame) -> bytes:
        return self._head + now() + b'",' + self._render_text(frame) + b',"done":false}\n'

    def last(self, frame: Frame, end: StreamEnd) -> bytes:
        final = final_fields(end, self._started_ns)
        if self._with_context and end.context:
            final["context"] = end.context
        return self._head + now() + b'",' + self._render_text(frame) + b"," + encode(final)[1:] + b"\n"

    def broken(self, error: ServiceError) -> bytes:
        return encode({"error": error.message}) + b"\n"

    def without_text(self, done_reason: str) -> bytes:
        """What a request that generates nothing is answered with."""
        text = self._render_text(Frame("", 0, 0))
        return self._head + now() + b'",' + text + b',"done":true,"done_reason":' + encode(done_reason) + b"}"
