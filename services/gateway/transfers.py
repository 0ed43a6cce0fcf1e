"""Uploads and downloads at once: one caller may not take all that this gateway can relay."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from libs.common import actor
from libs.common.errors import RateLimited

AGAIN_SECONDS: Final = 1.0


class Transfers:
    """Of this gateway, by user; callers without credentials count as one."""

    def __init__(self) -> None:
        self._running: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one_more(self, most: int) -> Iterator[None]:
        """Of the current actor. Raises ``RateLimited`` if ``most`` are running."""
        who = actor.current().organization_id, actor.current().user_id
        if self._running[who] >= most:
            raise too_many(most, "transfers")
        self._running[who] += 1
        try:
            yield
        finally:
            self._running[who] -= 1
            if not self._running[who]:
                del self._running[who]


def too_many(most: int, what: str) -> RateLimited:
    return RateLimited(f"limit reached: {most} {what} at once; try again when one has ended", retry_after=AGAIN_SECONDS)
