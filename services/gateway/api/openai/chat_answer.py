"""An answer to a chat: as one object, or chunk by chunk."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from libs.common.contracts.tokens import Frame, StreamEnd
from services.gateway.api.ollama.lines import split
from services.gateway.api.openai import wire
from services.gateway.api.openai.answers import Answer, Chunks, finish_reason


class ChatChunks(Chunks):
    def __init__(self, answer: Answer, *, with_usage: bool) -> None:
        super().__init__(answer, with_usage=with_usage)
        self._opened: set[int] = set()
        self._calls: Counter[int] = Counter()

    def chunk(self, frame: Frame, choice: int) -> bytes:
        """Nothing for an empty frame, unless it is the first: each choice begins with a role."""
        thought, answered = split(frame)
        return (self._delta(thought, choice) if thought else b"") + self._delta(answered, choice)

    def last(self, frame: Frame, end: StreamEnd, choice: int) -> bytes:
        self._ends[choice] = end
        rest = self.chunk(frame, choice)
        reason = finish_reason(end, calls=self._calls[choice] > 0)
        return rest + self._with_choice({"index": choice, "delta": {}, "finish_reason": reason})

    def _delta(self, frame: Frame, choice: int) -> bytes:
        delta = _said(frame, self._calls[choice])
        self._calls[choice] += len(frame.tool_calls)
        if choice not in self._opened:
            self._opened.add(choice)
            delta = {"role": "assistant", **(delta or {"content": ""})}
        elif not delta and not frame.logprobs:
            return b""
        return self._with_choice({"index": choice, "delta": delta, "finish_reason": None, **_logprobs(frame)})


def whole_choices(answers: Sequence[tuple[Frame, StreamEnd]]) -> list[dict[str, Any]]:
    return [_choice(number, frame, end) for number, (frame, end) in enumerate(answers)]


def _choice(number: int, frame: Frame, end: StreamEnd) -> dict[str, Any]:
    return {
        "index": number,
        "message": {"role": "assistant", "content": "", **_said(frame)},
        "finish_reason": finish_reason(end, calls=bool(frame.tool_calls)),
        **_logprobs(frame),
    }


def _said(frame: Frame, calls_before: int = 0) -> dict[str, Any]:
    """What a message or delta has of a frame."""
    said = {
        "content": frame.text,
        "reasoning": frame.thinking,
        "tool_calls": [_call(call, index) for index, call in enumerate(frame.tool_calls, calls_before)],
    }
    return {name: value for name, value in said.items() if value}


def _call(call: dict[str, Any], index: int) -> dict[str, Any]:
    """As an answer has it: the arguments are text."""
    function = call["function"]
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return {
        "id": call.get("id", ""),
        "index": index,
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _logprobs(frame: Frame) -> dict[str, Any]:
    if not frame.logprobs:
        return {}
    return {"logprobs": {"content": [wire.logprob(each) for each in frame.logprobs]}}
