"""Whose cache may still hold the beginning of a prompt: guessed from where such requests went. Pure.

Beginnings are the cumulative hashes of a request, salted by organization and runner: whoever has a longer one has every
shorter one.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Final

MOST_OF_ONE_MODEL: Final = 1024
"""Beginnings remembered of one model on one worker: more than its slots' caches can hold."""

MOST_HOLDERS: Final = 32
"""Of those that may have a beginning: many of them are full when it is a popular one."""


class Prefixes:
    """Recently used beginnings by worker and runner; the longest unused are forgotten first."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, dict[int, None]]] = {}
        """By worker and runner, the least recently used first."""

        self._holders: dict[int, dict[str, None]] = {}
        """Workers by beginning, in the order in which they got it."""

    def remember(self, worker_id: str, runner: str, prefix: Sequence[int]) -> None:
        if not prefix:
            return
        known = self._known.setdefault(worker_id, {}).setdefault(runner, {})
        for beginning in reversed(prefix):  # the shortest last, so that it is forgotten after the longer ones
            known.pop(beginning, None)
            known[beginning] = None
            self._holders.setdefault(beginning, {})[worker_id] = None
        while len(known) > MOST_OF_ONE_MODEL:
            oldest = next(iter(known))
            del known[oldest]
            self._let_go(worker_id, oldest)

    def matched(self, worker_id: str, runner: str, prefix: Sequence[int]) -> int:
        """How many beginnings of this prompt it may have; the last of them is the longest."""
        known = self._known.get(worker_id, {}).get(runner)
        return bisect_left(prefix, True, key=lambda beginning: beginning not in known) if known else 0

    def holders(self, prefix: Sequence[int]) -> list[str]:
        """Some workers that may have some of it, those with the most first."""
        found: dict[str, None] = {}
        for beginning in reversed(prefix):
            found.update(dict.fromkeys(islice(self._holders.get(beginning, ()), MOST_HOLDERS)))
            if len(found) >= MOST_HOLDERS:
                break
        return list(found)[:MOST_HOLDERS]

    def keep_only(self, worker_id: str, runners: Collection[str]) -> None:
        """All else has left the worker's memory."""
        models = self._known.get(worker_id)
        if models is None:
            return
        for runner in [runner for runner in models if runner not in runners]:
            for beginning in models.pop(runner):
                self._let_go(worker_id, beginning)
        if not models:
            del self._known[worker_id]

    def forget(self, worker_id: str) -> None:
        self.keep_only(worker_id, ())

    def _let_go(self, worker_id: str, beginning: int) -> None:
        workers = self._holders.get(beginning, {})
        workers.pop(worker_id, None)
        if not workers:
            self._holders.pop(beginning, None)
