"""An answer to a prompt: as one object, or chunk by chunk."""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import msgspec

from libs.common.contracts.tokens import Frame, Logprob, StreamEnd
from services.gateway.api.openai.answers import Answer, Chunks, finish_reason


class TextChunks(Chunks):
    """``before``: what each choice begins with."""

    def __init__(self, answer: Answer, before: Sequence[str], *, with_usage: bool) -> None:
        super().__init__(answer, with_usage=with_usage)
        self._before = list(before)
        self._offsets: Counter[int] = Counter()

    def chunk(self, frame: Frame, choice: int) -> bytes:
        """Nothing for a frame that only thinks."""
        frame = without_thoughts(frame)
        text, self._before[choice] = self._before[choice] + frame.text, ""
        if not text and not frame.logprobs:
            return b""
        logprobs = _logprobs(frame.logprobs, self._offsets[choice])
        self._offsets[choice] += len(text)
        return self._with_choice({"index": choice, "text": text, **logprobs, "finish_reason": None})

    def last(self, frame: Frame, end: StreamEnd, choice: int) -> bytes:
        self._ends[choice] = end
        rest = self.chunk(frame, choice)
        return rest + self._with_choice({"index": choice, "text": "", "finish_reason": finish_reason(end)})


def without_thoughts(frame: Frame) -> Frame:
    """There is no place for them, nor for their tokens."""
    return msgspec.structs.replace(frame, thinking="", logprobs=[]) if frame.thinking else frame


def whole_choices(answers: Sequence[tuple[Frame, StreamEnd]], before: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "index": number,
            "text": before[number] + frame.text,
            **_logprobs(frame.logprobs, 0),
            "finish_reason": finish_reason(end),
        }
        for number, (frame, end) in enumerate(answers)
    ]


def _logprobs(entries: Sequence[Logprob], offset: int) -> dict[str, Any]:
    """Where a token begins is counted in characters of the answer."""
    if not entries:
        return {}
    tokens = [entry.token for entry in entries]
    shown = {
        "tokens": tokens,
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [
            {entry.token: entry.logprob, **{other.token: other.logprob for other in entry.top}} for entry in entries
        ],
        "text_offset": [*accumulate(map(len, tokens[:-1]), initial=offset)],
    }
    return {"logprobs": shown}
