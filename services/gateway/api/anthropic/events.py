"""A message as it is streamed: each of its blocks begins, grows and stops, one after the other."""

from typing import Any, Final

from libs.common.contracts.tokens import Frame, StreamEnd
from libs.common.errors import ServiceError
from services.gateway.api import sse
from services.gateway.api.anthropic import shown
from services.gateway.api.anthropic.errors import error_body
from services.gateway.api.anthropic.request import Asked
from services.gateway.api.ollama.wire import encode
from services.gateway.estimate import estimate

_EMPTY_TEXT: Final = {"type": "text", "text": ""}
_EMPTY_THINKING: Final = {"type": "thinking", "thinking": "", "signature": ""}


def _event(kind: str, **fields: Any) -> bytes:
    return sse.event(encode({"type": kind, **fields}), kind.encode())


PING: Final = _event("ping")


class Events:
    media_type = sse.MEDIA_TYPE
    silence = PING

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._request_id = ""
        self._index = 0
        self._open = ""
        """Type of the block that grows; empty between two."""

        self._called = False

    def opening(self, request_id: str) -> bytes:
        """What the prompt really costs, only the end tells."""
        self._request_id = request_id
        begun = shown.empty_message(request_id, self._asked.name)
        begun["usage"] = shown.usage(estimate(self._asked.task, self._asked.model).prompt, 0)
        return _event("message_start", message=begun) + PING

    def chunk(self, frame: Frame, _choice: int) -> bytes:
        written = b""
        if frame.thinking:
            written += self._within(_EMPTY_THINKING)
        if frame.thinking and self._asked.shows_thinking:
            written += self._delta({"type": "thinking_delta", "thinking": frame.thinking})
        if frame.text:
            written += self._within(_EMPTY_TEXT) + self._delta({"type": "text_delta", "text": frame.text})
        for call in frame.tool_calls:
            written += self._tool_use(call)
        return written

    def last(self, frame: Frame, end: StreamEnd, choice: int) -> bytes:
        delta = shown.ending(end, self._asked.stops, called=self._called or bool(frame.tool_calls))
        usage = shown.usage(end.usage.prompt_tokens, end.usage.completion_tokens)
        return self.chunk(frame, choice) + self._stop() + _event("message_delta", delta=delta, usage=usage)

    def closing(self) -> bytes:
        return _event("message_stop")

    def broken(self, error: ServiceError) -> bytes:
        return sse.event(encode(error_body(error, self._request_id)), b"error")

    def _within(self, empty: dict[str, str]) -> bytes:
        """A block of this type is open."""
        return b"" if self._open == empty["type"] else self._stop() + self._start(empty)

    def _tool_use(self, call: dict[str, Any]) -> bytes:
        """Calls are whole: their arguments come in one piece."""
        self._called = True
        arguments = encode(call["function"].get("arguments") or {}).decode()
        begun = self._stop() + self._start(shown.tool_use(call, {}))
        return begun + self._delta({"type": "input_json_delta", "partial_json": arguments}) + self._stop()

    def _start(self, block: dict[str, Any]) -> bytes:
        self._open = block["type"]
        return _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, str]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _stop(self) -> bytes:
        """Of the open block, if there is one."""
        if not self._open:
            return b""
        signed = self._open == _EMPTY_THINKING["type"]
        signature = self._delta({"type": "signature_delta", "signature": shown.UNSIGNED}) if signed else b""
        stopped = signature + _event("content_block_stop", index=self._index)
        self._open, self._index = "", self._index + 1
        return stopped
