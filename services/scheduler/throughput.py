"""How long a wait will be, from what runs now and how long such requests have taken. Pure: no clock, no I/O."""

from collections import deque
from itertools import islice
from typing import Final

from cachetools import LRUCache

REMEMBERED: Final = 64
"""Durations per runner: so many tell the mean well, and soon forget what was."""

MOST_RUNNERS: Final = 1000
MOST_VACATED: Final = 1000


class _Runner:
    def __init__(self) -> None:
        self.running: dict[str, float] = {}
        """When each began, the first ones first."""

        self.took: deque[float] = deque(maxlen=REMEMBERED)


class Throughput:
    """Times are seconds of one monotonic clock, handed in. The fleet tells who has a slot, whoever granted it."""

    def __init__(self) -> None:
        self._runners: LRUCache[str, _Runner] = LRUCache(MOST_RUNNERS)
        self._runner_of: dict[str, str] = {}
        self._vacated: LRUCache[str, tuple[str, float]] = LRUCache(MOST_VACATED)
        """Who has left a slot, having been in it for so long; its end may be on the way."""

    def started(self, runner: str, request_id: str, now: float) -> None:
        """It got a slot."""
        self.dropped(request_id)
        self._vacated.pop(request_id, None)
        self._runners.setdefault(runner, _Runner()).running[request_id] = now
        self._runner_of[request_id] = runner

    def vacated(self, request_id: str, now: float) -> None:
        """Its worker runs it no more: a report may be faster than the word of its end."""
        runner, began = self._runner_of.get(request_id), self.dropped(request_id)
        if runner is not None and began is not None:
            self._vacated[request_id] = runner, now - began

    def ended(self, request_id: str, now: float) -> None:
        """It ran to its end."""
        self.vacated(request_id, now)
        runner, seconds = self._vacated.pop(request_id, ("", 0.0))
        if runner:
            self._runners.setdefault(runner, _Runner()).took.append(seconds)

    def dropped(self, request_id: str) -> float | None:
        """It left its slot in another way; when it had got it."""
        runner = self._runner_of.pop(request_id, None)
        state = self._runners.get(runner) if runner is not None else None
        return state.running.pop(request_id, None) if state is not None else None

    def wait_seconds(self, runner: str, ahead: int, now: float) -> float | None:
        """Of a request with so many before it on this runner, if it keeps its slots; None: nobody can tell."""
        state = self._runners.get(runner)
        if state is None or not state.running or not state.took:
            return None
        slots = len(state.running)
        mean = sum(state.took) / len(state.took)
        age = now - next(islice(state.running.values(), ahead % slots, None))
        return ahead // slots * mean + _left(state.took, age, mean)


def _left(took: deque[float], age: float, mean: float) -> float:
    """What such requests as have run for so long had still to go; of those that outlast all, half a usual one."""
    longer = [seconds for seconds in took if seconds > age]
    return sum(longer) / len(longer) - age if longer else mean / 2
