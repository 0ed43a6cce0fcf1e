"""Answers of another service, kept for a while, so that the path of a request asks nobody."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cachetools import LRUCache

from libs.common.errors import ServiceError, Unavailable, rebuild
from libs.common.tasks import Tasks

T = TypeVar("T")

REFUSAL_SECONDS = 1.0
"""A "no" is kept this long: enough that a flood of bad keys does not reach the other service."""

RETRY_SECONDS = 10.0
"""While the other service is away, a known answer is good for this long before it is asked for again."""


@dataclass(frozen=True)
class _Entry(Generic[T]):
    """``era``: see ``AnswerCache``; as it was when the answer was asked for."""

    answer: T | ServiceError
    era: int
    fresh_until: float
    usable_until: float


class AnswerCache(Generic[T]):
    """One question at a time per key, whoever waits for it; the old answer while nobody answers.

    ``fresh_seconds`` bounds how long a lost invalidation matters, ``usable_seconds`` how long an outage is bridged.
    ``era`` changes whenever invalidations may have been lost: answers of an earlier one are asked for again.
    """

    def __init__(
        self,
        tasks: Tasks,
        *,
        size: int = 10_000,
        fresh_seconds: float = 60.0,
        usable_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        era: Callable[[], int] = lambda: 0,
    ) -> None:
        self._tasks = tasks
        self._era = era
        self._fresh_seconds = fresh_seconds
        self._usable_seconds = usable_seconds
        self._clock = clock
        self._entries: LRUCache[str, _Entry[T]] = LRUCache(maxsize=size)
        # Apart: strangers make as many as they like, and must not drive out what is known.
        self._refusals: LRUCache[str, _Entry[T]] = LRUCache(maxsize=size)
        self._asking: dict[str, asyncio.Task[_Entry[T]]] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The known answer, or what ``ask`` returns. Raises the ``ServiceError`` that ``ask`` raises."""
        entry = self._entries.get(key) or self._refusals.get(key)
        if entry is None or entry.era != self._era() or entry.fresh_until <= self._clock():
            entry = await self._ask_once(key, ask)
        if isinstance(entry.answer, ServiceError):
            # A new instance each time: one that is raised again and again collects tracebacks.
            raise rebuild(entry.answer.code, entry.answer.message, entry.answer.retry_after)
        return entry.answer

    def forget(self, key: str) -> None:
        """Also an answer that is on its way: it may be from before the change."""
        self._entries.pop(key, None)
        self._refusals.pop(key, None)
        self._asking.pop(key, None)

    def forget_keys(self, outdated: Callable[[str], bool]) -> None:
        """As ``forget``, for all these keys."""
        for key in [key for key in (*self._entries, *self._refusals, *self._asking) if outdated(key)]:
            self.forget(key)

    def forget_if(self, outdated: Callable[[T], bool]) -> None:
        """As ``forget``, by what was answered; all that is on its way is asked for again."""
        for key, entry in list(self._entries.items()):
            if not isinstance(entry.answer, ServiceError) and outdated(entry.answer):
                del self._entries[key]
        self._asking.clear()

    async def _ask_once(self, key: str, ask: Callable[[], Awaitable[T]]) -> _Entry[T]:
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._tasks.start(self._ask(key, ask), "ask for an answer to keep")
            task.add_done_callback(lambda done: self._asked(key, done))
        # Shielded: others may wait for the same answer when this caller is cancelled.
        return await asyncio.shield(task)

    async def _ask(self, key: str, ask: Callable[[], Awaitable[T]]) -> _Entry[T]:
        era = self._era()
        try:
            return self._entry(era, await ask(), self._fresh_seconds)
        except Unavailable as error:
            known = self._entries.get(key)
            if known is not None and known.usable_until > self._clock():
                return replace(known, era=era, fresh_until=self._clock() + RETRY_SECONDS)
            return self._entry(era, error, 0)
        except ServiceError as error:
            return self._entry(era, error, REFUSAL_SECONDS)

    def _entry(self, era: int, answer: T | ServiceError, fresh_seconds: float) -> _Entry[T]:
        now = self._clock()
        usable_seconds = fresh_seconds if isinstance(answer, ServiceError) else self._usable_seconds
        return _Entry(answer, era, now + fresh_seconds, now + usable_seconds)

    def _asked(self, key: str, task: "asyncio.Task[_Entry[T]]") -> None:
        if self._asking.get(key) is not task:
            return
        del self._asking[key]
        if not task.cancelled() and task.exception() is None:
            entry = task.result()
            self.forget(key)
            (self._refusals if isinstance(entry.answer, ServiceError) else self._entries)[key] = entry
