"""Tool calls: found in a text that streams, or put together from an upstream's fragments. They come out whole."""

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from services.worker.engines.thinking import overlap

# Longer calls are given up and their text delivered as it is.
LONGEST_CALL: Final = 256 * 1024


class CallNumbering:
    """Gives each call of one answer its index, and an id that a replay gives it again."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self.count = 0

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """In the shape of Ollama's API."""
        index, self.count = self.count, self.count + 1
        digest = hashlib.sha256(f"{self._request_id} {index}".encode()).hexdigest()
        return {"id": f"call_{digest[:8]}", "function": {"index": index, "name": name, "arguments": arguments}}


@dataclass
class StreamedCalls:
    """Puts together the calls of an OpenAI stream, whose arguments come in pieces of JSON text.

    ``only_one``: those after the first are dropped, of servers that do not know that nobody wants them.
    """

    numbering: CallNumbering
    only_one: bool = False
    _current: int = -1
    _name: str = ""
    _arguments: list[str] = field(default_factory=list)

    def add(self, fragments: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
        """The calls that are whole now: a call is when the next one begins."""
        whole: list[dict[str, Any]] = []
        for fragment in fragments:
            if (index := fragment.get("index", 0)) != self._current:
                whole += self.finish()
                self._current = index
            function = fragment.get("function") or {}
            self._name = self._name or function.get("name") or ""
            self._arguments.append(function.get("arguments") or "")
        return tuple(whole)

    def finish(self) -> tuple[dict[str, Any], ...]:
        """The last call, unless it was cut off."""
        name, text = self._name, "".join(self._arguments)
        self._current, self._name, self._arguments = -1, "", []
        try:
            arguments = orjson.loads(text or "{}")
        except orjson.JSONDecodeError:
            return ()
        if not name or not isinstance(arguments, dict) or (self.only_one and self.numbering.count):
            return ()
        return (self.numbering.call(name, arguments),)


class ToolCallSplitter:
    """Finds calls behind the tag that a model puts in front of them, as ``<tool_call>`` or just ``{``.

    A call is a JSON object, alone or in a list, with the name of an offered tool and its arguments or parameters.
    What is between calls is dropped; a text without any call is delivered as it came. A tag that is only a bracket
    counts only at the beginning of the answer.
    """

    def __init__(self, tag: str, offered: Collection[str], numbering: CallNumbering) -> None:
        self._tag = tag
        self._offered = offered
        self._numbering = numbering
        self._held = ""
        self._searched = 0
        self._calling = False
        self._expected = False
        self.found = False
        self._over = False

    def expect(self) -> str:
        """A call comes next. Returns the tag in front of it, which will not be seen; nothing if it is a part of it.

        One that is cut off then is no text either: nobody asked for any.
        """
        self._calling = self._expected = True
        return "" if self._tag == "{" else self._tag

    def add(self, text: str) -> tuple[str, tuple[dict[str, Any], ...]]:
        """(content, calls)."""
        if self._over:
            return text, ()
        self._held += text
        content = "" if self._calling else self._look_for_tag()
        # A call is complete only with a closing bracket: no need to look at every token.
        calls = self._take_calls() if self._calling and ("}" in text or "]" in text) else ()
        if len(self._held) > LONGEST_CALL:
            self._over = True
            content += self.finish()
        return content, calls

    def finish(self) -> str:
        """Content that was held back and turned out to be no call."""
        held, self._held = self._held, ""
        return "" if self.found or self._expected else held

    def _look_for_tag(self) -> str:
        before, tag, _ = self._held.partition(self._tag)
        if self._tag in _BRACKETS and before.strip():
            self._over = True
            before = self._held
        elif tag:
            self._calling = True
        else:
            before = before[: len(before) - overlap(before, self._tag)]
        self._held = self._held[len(before) :]
        return before

    def _take_calls(self) -> tuple[dict[str, Any], ...]:
        calls: list[dict[str, Any]] = []
        while (span := _next_value(self._held, self._searched)) is not None:
            start, self._searched = span
            calls += [
                self._numbering.call(*call) for call in _calls_in(self._held[start : self._searched], self._offered)
            ]
        if calls:
            self.found = True
            self._held, self._searched = self._held[self._searched :], 0
        return tuple(calls)


_BRACKETS: Final = {"{": "}", "[": "]"}
_NOTABLE = re.compile(r'["{}\[\]]|\\.', re.DOTALL)


def _next_value(text: str, start: int) -> tuple[int, int] | None:
    """Where the next text in balanced brackets begins and ends; brackets in strings do not count. None: not yet."""
    begin, depth, in_string = -1, 0, False
    for match in _NOTABLE.finditer(text, start):
        mark = match.group()
        if mark == '"' and begin >= 0:
            in_string = not in_string
        elif not in_string and mark in _BRACKETS:
            begin = match.start() if depth == 0 else begin
            depth += 1
        elif not in_string and depth and mark in _BRACKETS.values():
            depth -= 1
            if depth == 0:
                return begin, match.end()
    return None


def _calls_in(text: str, offered: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and arguments of each call in a JSON text; nothing if it is not JSON."""
    try:
        values = [orjson.loads(text)]
    except orjson.JSONDecodeError:
        return
    while values:
        value = values.pop(0)
        if isinstance(value, list):
            values = [*value, *values]
        elif isinstance(value, dict):
            function = value["function"] if isinstance(value.get("function"), dict) else value
            arguments = function.get("arguments", function.get("parameters"))
            if isinstance(arguments, dict) and function.get("name") in offered:
                yield function["name"], arguments
