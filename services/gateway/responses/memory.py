"""What was said lately, so that a conversation goes on without a look into Postgres."""

from dataclasses import dataclass
from typing import Any, Final

from cachetools import TTLCache

MOST_BYTES: Final = 64 * 1024 * 1024
SECONDS: Final = 60.0
"""So long at most a response may be gone on from that was deleted through another gateway."""


@dataclass(frozen=True)
class Turn:
    """A response as the next one goes on from it. ``size``: its bytes in JSON."""

    organization_id: str
    user_id: str
    previous: str
    items: list[dict[str, Any]]
    """What was asked, and what was answered."""

    size: int


class Turns:
    """By the response's id. Whose they are, callers check."""

    def __init__(self) -> None:
        self._turns: TTLCache[str, Turn] = TTLCache(MOST_BYTES, SECONDS, getsizeof=lambda turn: turn.size)

    def get(self, response_id: str) -> Turn | None:
        return self._turns.get(response_id)

    def put(self, response_id: str, turn: Turn) -> None:
        if turn.size <= MOST_BYTES:
            self._turns[response_id] = turn

    def forget(self, response_id: str) -> None:
        self._turns.pop(response_id, None)
