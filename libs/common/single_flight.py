"""One run of slow work however many wait for it."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Callers of the same key share one task. It outlives a caller that is cancelled: others may wait for it.

    ``on_done`` is called after each run, when its key is free again.
    """

    def __init__(self, on_done: Callable[[], None] = lambda: None) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}
        self._on_done = on_done

    def __contains__(self, key: K) -> bool:
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Join the run of this key, or start one. Raises what it raises."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(start(), name=f"single flight {key}")
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: K, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        self._on_done()
        if not task.cancelled():
            task.exception()  # read, so that a failure nobody waited for any more is not reported as lost

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
