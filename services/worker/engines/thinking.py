"""Takes thinking and content apart while an answer streams, by the tags around the thinking."""

from enum import Enum, auto
from typing import NamedTuple


class Tags(NamedTuple):
    """As ``<think>`` and ``</think>``."""

    opening: str
    closing: str


class Split(NamedTuple):
    thinking: str = ""
    content: str = ""


class _State(Enum):
    BEFORE = auto()  # nothing but white space yet
    OPENED = auto()  # the white space after the opening tag
    THINKING = auto()
    CLOSED = auto()  # the white space after the closing tag
    CONTENT = auto()


class ThinkingSplitter:
    """Text that may be the beginning of a tag, and white space that may be in front of one, is held back.

    Only an answer that begins with the opening tag is taken apart: later, a tag is content like any other.
    ``inside``: the prompt has ended in the opening tag already.
    """

    def __init__(self, tags: Tags, *, inside: bool = False) -> None:
        self._tags = tags
        self._state = _State.OPENED if inside else _State.BEFORE
        self._held = ""
        self.found = inside

    @property
    def settled(self) -> bool:
        """Whether all that comes now is content."""
        return self._state in {_State.CLOSED, _State.CONTENT}

    def add(self, text: str) -> Split:
        if self._state is _State.CONTENT:
            return Split("", text)
        self._held += text
        thinking = ""
        if self._state is _State.BEFORE:
            self._look_for_opening()
        if self._state in {_State.OPENED, _State.THINKING}:
            thinking = self._take_thinking()
        if self._state is _State.CLOSED:
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.CONTENT
        return Split(thinking, self._take_held() if self._state is _State.CONTENT else "")

    def finish(self) -> Split:
        """What was held back when the answer ended."""
        held = self._take_held()
        if self._state in {_State.OPENED, _State.THINKING}:
            return Split(held.rstrip(), "")
        return Split("", held)

    def _look_for_opening(self) -> None:
        start = self._held.lstrip()
        if start.startswith(self._tags.opening):
            self._held = start[len(self._tags.opening) :]
            self._state = _State.OPENED
            self.found = True
        elif not self._tags.opening.startswith(start):
            self._state = _State.CONTENT

    def _take_thinking(self) -> str:
        if self._state is _State.OPENED:
            self._held = self._held.lstrip()
            if not self._held:
                return ""
            self._state = _State.THINKING
        thinking, closed, rest = self._held.partition(self._tags.closing)
        if closed:
            self._held, self._state = rest, _State.CLOSED
            return thinking.rstrip()
        kept = len(thinking) - overlap(thinking, self._tags.closing)
        kept = len(thinking[:kept].rstrip())
        self._held = thinking[kept:]
        return thinking[:kept]

    def _take_held(self) -> str:
        held, self._held = self._held, ""
        return held


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of the text may be the beginning of the tag."""
    return next((n for n in range(min(len(text), len(tag)), 0, -1) if text.endswith(tag[:n])), 0)
