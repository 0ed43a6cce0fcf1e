"""A generated answer as NDJSON lines, or as the one object that sums them up."""

from collections.abc import Callable
from typing import Any

import msgspec

from libs.common.contracts.tokens import Frame, Logprob, StreamEnd, TopLogprob
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
    silence = b""

    def __init__(self, model: str, render_text: RenderText, started_ns: int, *, with_context: bool = False) -> None:
        self._head = b'{"model":' + encode(model) + b',"created_at":"'
        self._render_text = render_text
        self._started_ns = started_ns
        self._with_context = with_context

    def opening(self, _request_id: str) -> bytes:
        return b""

    def chunk(self, frame: Frame, _choice: int) -> bytes:
        thought, answered = split(frame)
        return (self._chunk(thought) if thought else b"") + self._chunk(answered)

    def last(self, frame: Frame, end: StreamEnd, _choice: int) -> bytes:
        thought, answered = split(frame)
        return (self._chunk(thought) if thought else b"") + self.whole(answered, end) + b"\n"

    def closing(self) -> bytes:
        return b""

    def whole(self, frame: Frame, end: StreamEnd) -> bytes:
        """All in one object, without a line break."""
        final = final_fields(end, self._started_ns)
        if self._with_context and end.context:
            final["context"] = end.context
        return self._begin(frame) + b"," + encode(final)[1:]

    def broken(self, error: ServiceError) -> bytes:
        return encode({"error": error.message}) + b"\n"

    def without_text(self, done_reason: str) -> bytes:
        """What a request that generates nothing is answered with."""
        return self._begin(Frame("", 0, 0)) + b',"done":true,"done_reason":' + encode(done_reason) + b"}"

    def rendered(self, end: StreamEnd) -> bytes:
        """What a request that only wants to see its prompt is answered with."""
        info = {"rendered_template": end.rendered or "", "image_count": end.image_count}
        return self._head + now() + b'","_debug_info":' + encode(info) + b"}"

    def _chunk(self, frame: Frame) -> bytes:
        return self._begin(frame) + b',"done":false}\n'

    def _begin(self, frame: Frame) -> bytes:
        line = self._head + now() + b'",' + self._render_text(frame)
        if frame.logprobs:
            line += b',"logprobs":' + encode([logprob(each) for each in frame.logprobs])
        return line


def split(frame: Frame) -> tuple[Frame | None, Frame]:
    """(thinking, the rest) where a frame has both: clients show a line as the one or the other."""
    if not frame.thinking or not (frame.text or frame.tool_calls):
        return None, frame
    thought = msgspec.structs.replace(frame, text="", tool_calls=[])
    return thought, msgspec.structs.replace(frame, thinking="", logprobs=[])


def logprob(entry: Logprob) -> dict[str, Any]:
    shown = token_shown(entry)
    if entry.top:
        shown["top_logprobs"] = [token_shown(other) for other in entry.top]
    return shown


def token_shown(entry: Logprob | TopLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.data)}
