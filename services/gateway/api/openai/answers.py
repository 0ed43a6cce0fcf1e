"""Choices of an answer on their way to the client: what chat and completions have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from libs.common.contracts.tokens import Frame, StreamEnd
from libs.common.errors import ServiceError
from services.gateway.api import sse
from services.gateway.api.ollama.wire import encode
from services.gateway.api.openai import wire
from services.gateway.api.openai.errors import error_body

DONE: Final = sse.event(b"[DONE]")


@dataclass(frozen=True)
class Answer:
    """What is said of it around its choices. ``n``: choices of each prompt, which stand side by side."""

    prefix: str
    kind: str
    model: str
    n: int = 1

    def head(self, request_id: str) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{request_id}",
            "object": self.kind,
            "created": wire.created(),
            "model": self.model,
            "system_fingerprint": wire.FINGERPRINT,
        }

    def usage(self, ends: Sequence[StreamEnd]) -> dict[str, int]:
        """A prompt is counted once, however many choices it has."""
        asked = sum(end.usage.prompt_tokens for end in ends[:: self.n])
        answered = sum(end.usage.completion_tokens for end in ends)
        return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}

    def whole(self, answers: Sequence[tuple[Frame, StreamEnd]], choices: Sequence[Mapping[str, Any]]) -> Response:
        head = self.head(answers[0][0].request_id)
        return wire.json_answer({**head, "choices": choices, "usage": self.usage([end for _, end in answers])})


class Chunks:
    """Half of a ``Rendering``: all but the choices themselves."""

    media_type = sse.MEDIA_TYPE
    silence = sse.KEEP_ALIVE

    def __init__(self, answer: Answer, *, with_usage: bool) -> None:
        self._answer = answer
        self._with_usage = with_usage
        self._head = b""
        self._ends: dict[int, StreamEnd] = {}

    def opening(self, request_id: str) -> bytes:
        self._head = encode(self._answer.head(request_id))[:-1] + b',"choices":['
        return b""

    def closing(self) -> bytes:
        if not self._with_usage:
            return DONE
        usage = self._answer.usage([end for _, end in sorted(self._ends.items())])
        return sse.event(self._head + b'],"usage":' + encode(usage) + b"}") + DONE

    def broken(self, error: ServiceError) -> bytes:
        return sse.event(encode(error_body(error)))

    def _with_choice(self, choice: Mapping[str, Any]) -> bytes:
        return sse.event(self._head + encode(choice) + b"]}")


def finish_reason(end: StreamEnd, *, calls: bool = False) -> str:
    return "tool_calls" if calls else end.done_reason
