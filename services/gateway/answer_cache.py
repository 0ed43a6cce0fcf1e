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
    answer: T | ServiceError
    fresh_until: float
    usable_until: float


class AnswerCache(Generic[T]):
    """One question at a time per key, whoever waits for it; the old answer while nobody answers.

    ``fresh_seconds`` bounds how long a lost invalidation matters, ``usable_seconds`` how long an outage is bridged.
    """

    def __init__(
        self,
        tasks: Tasks,
        *,
        size: int = 10_000,
        fresh_seconds: float = 60.0,
        usable_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tasks = tasks
        self._fresh_seconds = fresh_seconds
        self._usable_seconds = usable_seconds
        self._clock = clock
        self._entries: LRUCache[str, _Entry[T]] = LRUCache(maxsize=size)
        self._asking: dict[str, asyncio.Task[_Entry[T]]] = {}

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The known answer, or what ``ask`` returns. Raises the ``ServiceError`` that ``ask`` raises."""
        entry = self._entries.get(key)
        if entry is None or entry.fresh_until <= self._clock():
            entry = await self._ask_once(key, ask)
        if isinstance(entry.answer, ServiceError):
            # A new instance each time: one that is raised again and again collects tracebacks.
            raise rebuild(entry.answer.code, entry.answer.message)
        return entry.answer

    def forget(self, key: str) -> None:
        """Also an answer that is on its way: it may be from before the change."""
        self._entries.pop(key, None)
        self._asking.pop(key, None)

    async def _ask_once(self, key: str, ask: Callable[[], Awaitable[T]]) -> _Entry[T]:
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._tasks.start(self._ask(key, ask), "ask for an answer to keep")
            task.add_done_callback(lambda done: self._asked(key, done))
        # Shielded: others may wait for the same answer when this caller is cancelled.
        return await asyncio.shield(task)

    async def _ask(self, key: str, ask: Callable[[], Awaitable[T]]) -> _Entry[T]:
        try:
            return self._entry(await ask(), self._fresh_seconds)
        except Unavailable as error:
            known = self._entries.get(key)
            if known is not None and known.usable_until > self._clock():
                return replace(known, fresh_until=self._clock() + RETRY_SECONDS)
            return self._entry(error, 0)
        except ServiceError as error:
            return self._entry(error, REFUSAL_SECONDS)

    def _entry(self, answer: T | ServiceError, fresh_seconds: float) -> _Entry[T]:
        now = self._clock()
        usable_seconds = fresh_seconds if isinstance(answer, ServiceError) else self._usable_seconds
        return _Entry(answer, now + fresh_seconds, now + usable_seconds)

    def _asked(self, key: str, task: "asyncio.Task[_Entry[T]]") -> None:
        if self._asking.get(key) is not task:
            return
        del self._asking[key]
        if not task.cancelled() and task.exception() is None:
            self._entries[key] = task.result()
