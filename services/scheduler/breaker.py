"""Models that keep failing to load: asked for again only now and then, instead of by everybody who wants them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache
from prometheus_client import Gauge

from libs.common.contracts.scheduler.inference import AttemptRecord
from libs.common.contracts.worker import InferenceFinished
from libs.common.errors import ModelLoadFailed, ServiceError

OPENS_AFTER: Final = 3
"""Failures in a row, on whatever workers."""

FIRST_PAUSE_SECONDS: Final = 10.0
LONGEST_PAUSE_SECONDS: Final = 600.0

AVOID_SECONDS: Final = 60.0
"""For this long a worker on which a load has failed is asked only if it has failed on all others."""

_open = Gauge("scheduler_breakers_open", "Models that are refused because they keep failing to load")


@dataclass
class _Trouble:
    """Failures in a row of one runner. While it pauses all are refused; then one request may try."""

    failures: int = 0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    next_try_at: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class _Failure:
    """Of a load on one worker: when we heard of it, by our clock, and when it was told, by the worker's."""

    heard_at: float
    told_at: float


class Breaker:
    """Every replica hears the same ends, so a stand-by that becomes active knows as much."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubles: LRUCache[str, _Trouble] = LRUCache(maxsize=10_000)
        self._failed_on: LRUCache[tuple[str, str], _Failure] = LRUCache(maxsize=10_000)

    def hear(self, event: InferenceFinished) -> bool:
        """True if from now on this runner is refused."""
        if event.outcome == "done":
            self._failed_on.pop((event.worker_id, event.runner), None)
            if self._troubles.pop(event.runner, None) is not None:
                self._count()
        elif event.error_code == ModelLoadFailed.code and event.runner:
            return self._failed(event.worker_id, event.runner, event.error_message, event.granted_at, event.finished_at)
        return False

    def load_failed(self, runner: str, attempt: AttemptRecord) -> bool:
        """Its request goes elsewhere, so this is not its end. True if from now on this runner is refused."""
        at = attempt.ended_at or attempt.granted_at
        return self._failed(attempt.worker_id, runner, attempt.message, attempt.granted_at, at)

    def _failed(self, worker_id: str, runner: str, message: str, granted_at: float, failed_at: float) -> bool:
        known = self._failed_on.get((worker_id, runner))
        if known is not None and granted_at <= known.told_at:
            return False  # all who waited for one load tell its failure
        self._failed_on[worker_id, runner] = _Failure(self._clock(), failed_at)
        trouble = self._troubles.setdefault(runner, _Trouble())
        trouble.failures += 1
        trouble.message = message
        if trouble.failures < OPENS_AFTER:
            return False
        if trouble.failures > OPENS_AFTER:
            trouble.pause_seconds = min(2 * trouble.pause_seconds, LONGEST_PAUSE_SECONDS)
        trouble.next_try_at = self._clock() + trouble.pause_seconds
        self._count()
        return True

    def refusal(self, runner: str) -> ServiceError | None:
        """Why a request for it is refused at once. None: it may try; after a pause, the one that asks first."""
        trouble = self._troubles.get(runner)
        if trouble is None or trouble.failures < OPENS_AFTER:
            return None
        now = self._clock()
        if now >= trouble.next_try_at:
            trouble.next_try_at = now + trouble.pause_seconds
            return None
        message = f"the model keeps failing to load and is tried again later: {trouble.message}"
        return ModelLoadFailed(message, retry_after=trouble.next_try_at - now)

    def avoids(self, worker_id: str, runner: str) -> bool:
        """Has it failed to load there a moment ago?"""
        if not self._failed_on:
            return False
        failure = self._failed_on.get((worker_id, runner))
        return failure is not None and self._clock() - failure.heard_at < AVOID_SECONDS

    def _count(self) -> None:
        _open.set(sum(trouble.failures >= OPENS_AFTER for trouble in self._troubles.values()))
