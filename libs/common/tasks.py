"""Every task of a process is held here, and none dies silently."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)

CANCEL_AGAIN_SECONDS = 5.0


class Tasks:
    """The process's one supervised group: holds every task, and a task that fails ends the process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def __len__(self) -> int:
        return len(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("a task died", task=task.get_name(), exc_info=error)
        if not self.failed.done():
            self.failed.set_exception(error)

    async def cancel_all(self) -> None:
        """Again, if need be: ``asyncio.wait_for`` of Python 3.11, with which psycopg's pool waits, may swallow one."""
        left = set(self._tasks)
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)
