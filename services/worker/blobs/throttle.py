"""A bound on bytes per second, for all who take from it together."""

import asyncio
import time


class Throttle:
    """``bytes_per_second`` 0: no bound."""

    def __init__(self, bytes_per_second: int) -> None:
        self._seconds_per_byte = 1 / bytes_per_second if bytes_per_second else 0.0
        self._free_at = 0.0

    @property
    def backlog_seconds(self) -> float:
        """How long one who came now would wait."""
        return max(0.0, self._free_at - time.monotonic())

    async def take(self, count: int) -> None:
        """Wait for one's turn, in the order of asking."""
        begins_at = max(time.monotonic(), self._free_at)
        self._free_at = begins_at + count * self._seconds_per_byte
        await asyncio.sleep(begins_at - time.monotonic())
