"""The input of a batch: a file of requests, one JSON object a line."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from libs.common.errors import InvalidRequest, TooLarge
from services.gateway.api.json_body import decode

MOST_LINES: Final = 50_000
MOST_ERRORS: Final = 100
LONGEST_LINE: Final = 4 * 1024 * 1024
LONGEST_ID: Final = 512


@dataclass
class Validation:
    """Looks at one line after the other; ``errors`` in OpenAI's words, with the line they are about.

    It takes its time: not on the event loop.
    """

    endpoint: str
    count: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    _number: int = 0
    _rest: bytes = b""
    _ids: set[bytes] = field(default_factory=set)

    @property
    def hopeless(self) -> bool:
        """What else is wrong does not matter."""
        return self.count > MOST_LINES or len(self.errors) >= MOST_ERRORS

    def note(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        self.errors.append({"code": code, "message": message, "line": line, "param": param})

    def read(self, piece: bytes) -> list[tuple[int, bytes]]:
        """The lines that end in the next piece of the file, with their numbers. Raises ``TooLarge`` for long ones."""
        lines = (self._rest + piece).split(b"\n")
        if max(map(len, lines)) > LONGEST_LINE:
            raise TooLarge
        self._rest = lines.pop()
        return self._checked(lines)

    def read_last(self) -> list[tuple[int, bytes]]:
        """What comes after the last line feed."""
        return self._checked([self._rest])

    def _checked(self, lines: Iterable[bytes]) -> list[tuple[int, bytes]]:
        found = []
        for line in lines:
            self._number += 1
            if line.strip():
                self._check(self._number, line)
                if self.hopeless:
                    break
                found.append((self._number, line))
        return found

    def _check(self, number: int, line: bytes) -> None:
        self.count += 1
        if self.count > MOST_LINES:
            self.note("too_many_requests", f"a batch must not have more than {MOST_LINES} requests")
            return
        try:
            request = decode(line)
        except InvalidRequest:
            request = None
        if isinstance(request, dict):
            self._check_request(number, request)
        else:
            self.note("invalid_json_line", "this line is not a JSON object", number)

    def _check_request(self, number: int, request: dict[str, Any]) -> None:
        custom_id = request.get("custom_id")
        if not isinstance(custom_id, str) or not custom_id:
            self.note("missing_required_parameter", "custom_id is required: text", number, "custom_id")
        elif len(custom_id) > LONGEST_ID:
            self.note("invalid_value", f"custom_id is longer than {LONGEST_ID} characters", number, "custom_id")
        else:
            self._check_unique(number, custom_id)
        if request.get("method") != "POST":
            self.note("invalid_method", "method must be POST", number, "method")
        if request.get("url") != self.endpoint:
            self.note("mismatched_endpoint", f"url must be the batch's endpoint, {self.endpoint}", number, "url")
        if not isinstance(request.get("body"), dict):
            self.note("missing_required_parameter", "body is required: an object", number, "body")

    def _check_unique(self, number: int, custom_id: str) -> None:
        digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        if digest in self._ids:
            self.note("duplicate_custom_id", "an earlier line has this custom_id", number, "custom_id")
        self._ids.add(digest)
