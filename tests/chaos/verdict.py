"""What became of one stream, exactly: told from what must come and from what its client saw."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from tests.chaos.questions import REAL_TOKENS, Question


class Verdict(StrEnum):
    INTACT = "intact"
    ERROR = "clear error"
    HUNG = "hung"
    LOST = "lost"
    DOUBLED = "doubled"
    SWAPPED = "out of order"
    WRONG = "wrong"


@dataclass(frozen=True)
class Piece:
    """One line of an answer. ``at`` in seconds of a clock that never goes back."""

    at: float
    seq: int = 0
    text: str = ""
    thinking: str = ""
    calls: tuple[str, ...] = ()
    logprobs: tuple[str, ...] = ()


@dataclass
class History:
    """All that a client saw of one request."""

    question: Question
    began: float
    pieces: list[Piece] = field(default_factory=list)
    request_id: str = ""
    end: str = ""
    """``done``, or the code of the error; empty: it never ended."""

    silent: bool = False
    """Its client waited for longer than any fault lasts."""

    tokens: int = 0
    """As the last line counts them."""

    ended: float = 0.0
    refused: int = 0
    """Times that it was told to come again later, nothing having begun."""

    sent_again: int = 0
    """Times that it was cut off before it had begun, so that it was sent anew."""

    resumed: int = 0
    """Times that it was read on elsewhere."""

    @property
    def seq(self) -> int:
        return max((piece.seq for piece in self.pieces), default=0)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def units(self) -> list[str]:
        thinking = "".join(piece.thinking for piece in self.pieces)
        calls = (name for piece in self.pieces for name in piece.calls)
        return [*re.findall(r"t\d+", thinking), *re.findall(r"w\d+|vector", self.text), *calls]

    @property
    def logprobs(self) -> list[str]:
        return [token for piece in self.pieces for token in piece.logprobs]

    def gap(self, since: float, until: float) -> float:
        """The longest time between two of its pieces that its reader saw after ``since``; nan if it was not running.

        Only of what was running then: what had not begun waits in the queue, which is another matter.
        """
        if not self.pieces or not self.pieces[0].at < since < (self.ended or math.inf):
            return math.nan
        times = [piece.at for piece in self.pieces]
        return max((b - a for a, b in pairwise([*times, self.ended or until]) if b > since), default=0.0)


def judge(history: History) -> Verdict:
    if history.silent or not history.end:
        return Verdict.HUNG
    found = _known(history) if history.question.units is not None else _counted(history)
    if found is Verdict.INTACT and history.end != "done":
        return Verdict.ERROR
    return found


def _known(history: History) -> Verdict:
    question, done = history.question, history.end == "done"
    assert question.units is not None
    found = compare(question.units, history.units, whole=done)
    if found is not Verdict.INTACT or not done:
        return found
    texts = question.text is None or question.text == history.text
    logprobs = [token.strip() for token in history.logprobs] == list(question.logprobs)
    billed = not question.tokens or history.tokens == question.tokens
    return Verdict.INTACT if texts and logprobs and billed else Verdict.WRONG


def compare(expected: Sequence[str], got: Sequence[str], *, whole: bool) -> Verdict:
    """``expected`` has no unit twice. What is not ``whole`` may end early."""
    if list(got) == list(expected[: len(got)]):
        return Verdict.LOST if whole and len(got) < len(expected) else Verdict.INTACT
    if not set(got) <= set(expected):
        return Verdict.WRONG
    if len(set(got)) < len(got):
        return Verdict.DOUBLED
    place = {unit: index for index, unit in enumerate(expected)}
    order = [place[unit] for unit in got]
    return Verdict.LOST if order == sorted(order) else Verdict.SWAPPED


def _counted(history: History) -> Verdict:
    """A real model's: by the numbers of its pieces, and by what was billed."""
    found = in_sequence(history.pieces)
    if found is not Verdict.INTACT or history.end != "done":
        return found
    counted = 0 < history.tokens <= REAL_TOKENS and bool(history.text)
    asked = history.question.body
    if asked.get("logprobs"):
        counted &= len(history.logprobs) == history.tokens
    if "format" in asked and history.tokens < REAL_TOKENS:
        counted &= _is_json(history.text)
    return Verdict.INTACT if counted else Verdict.WRONG


def in_sequence(pieces: Iterable[Piece]) -> Verdict:
    """A frame with thinking and text makes two pieces of one number."""
    before = Piece(0.0)
    for piece in pieces:
        step = piece.seq - before.seq
        if step == 0 and not (before.thinking and not piece.thinking):
            return Verdict.DOUBLED
        if step not in (0, 1):
            return Verdict.LOST if step > 1 else Verdict.SWAPPED
        before = piece
    return Verdict.INTACT


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
