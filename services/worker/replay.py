"""Deterministic replay: generate again what cannot be continued; compare and suppress what was already sent."""

from collections.abc import Sequence
from typing import Any

from libs.common.contracts.tokens import Frame, Logprob
from libs.common.errors import ReplayDiverged
from services.worker.engines.base import Piece


class Replay:
    """Swallows exactly what was already sent. Raises ``ReplayDiverged`` at the first difference."""

    def __init__(self, history: Sequence[Frame]) -> None:
        self._text = "".join(frame.text for frame in history)
        self._thinking = "".join(frame.thinking for frame in history)
        self._tool_calls = [call for frame in history for call in frame.tool_calls]
        self._logprobs = [logprob for frame in history for logprob in frame.logprobs]

    @classmethod
    def of(cls, history: Sequence[Frame]) -> "Replay | None":
        """None if nothing was sent."""
        replay = cls(history)
        return replay if replay._unfinished else None

    @property
    def _unfinished(self) -> bool:
        return bool(self._text or self._thinking or self._tool_calls or self._logprobs)

    def after(self, piece: Piece) -> Piece | None:
        """What of this piece is new; None if nothing is. Without token ids: they would not match the text's cut."""
        thinking, self._thinking = _beyond(self._thinking, piece.thinking)
        text, self._text = _beyond(self._text, piece.text)
        new = Piece(text, (), thinking, self._new_calls(piece.tool_calls), self._new_logprobs(piece.logprobs))
        return new if new != _NOTHING else None

    def _new_calls(self, calls: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
        again = self._tool_calls[: len(calls)]
        if again != list(calls[: len(again)]):
            raise ReplayDiverged
        del self._tool_calls[: len(again)]
        return tuple(calls[len(again) :])

    def _new_logprobs(self, logprobs: Sequence[Logprob]) -> tuple[Logprob, ...]:
        """Only tokens are compared: a number may differ in its last digits from one machine to the next."""
        again = self._logprobs[: len(logprobs)]
        if any(before.token != now.token for before, now in zip(again, logprobs, strict=False)):
            raise ReplayDiverged
        del self._logprobs[: len(again)]
        return tuple(logprobs[len(again) :])

    def finish(self) -> None:
        if self._unfinished:
            raise ReplayDiverged


_NOTHING = Piece()


def _beyond(sent: str, again: str) -> tuple[str, str]:
    """(what of ``again`` was not sent, what of ``sent`` has not come again)."""
    if again.startswith(sent):
        return again[len(sent) :], ""
    if sent.startswith(again):
        return "", sent[len(again) :]
    raise ReplayDiverged
