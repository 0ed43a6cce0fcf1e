"""Deterministic replay: generate again what cannot be continued; compare and suppress what was already sent."""

from collections.abc import Sequence

from libs.common.contracts.tokens import Frame
from libs.common.errors import ReplayDiverged
from services.worker.engines.base import Piece


class Replay:
    """Swallows exactly the text that was already sent. Raises ``ReplayDiverged`` at the first difference."""

    def __init__(self, text: str, thinking: str) -> None:
        self._text = text
        self._thinking = thinking

    @classmethod
    def of(cls, history: Sequence[Frame]) -> "Replay | None":
        """None if nothing was sent."""
        text, thinking = "".join(f.text for f in history), "".join(f.thinking for f in history)
        return cls(text, thinking) if text or thinking else None

    def after(self, piece: Piece) -> Piece | None:
        """What of this piece is new; None if nothing is. Without token ids: they would not match the text's cut."""
        thinking, self._thinking = _beyond(self._thinking, piece.thinking)
        text, self._text = _beyond(self._text, piece.text)
        return Piece(text=text, thinking=thinking) if text or thinking else None

    def finish(self) -> None:
        if self._text or self._thinking:
            raise ReplayDiverged


def _beyond(sent: str, again: str) -> tuple[str, str]:
    """(what of ``again`` was not sent, what of ``sent`` has not come again)."""
    if again.startswith(sent):
        return again[len(sent) :], ""
    if sent.startswith(again):
        return "", sent[len(again) :]
    raise ReplayDiverged
