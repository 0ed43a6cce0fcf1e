"""Pulls, pushes and creates: started as commands, followed by what the registry reports of them."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Final

import structlog
from cachetools import LRUCache

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.contracts.gateway import OperationCancelled
from libs.common.contracts.registry import CreateModel, Failure, OperationReported, Progress, PullModel, PushModel
from libs.common.errors import DeadlineExceeded, ServiceError, Unavailable, rebuild
from libs.common.tasks import Tasks
from services.gateway.transfers import too_many

log = structlog.get_logger(__name__)

SHUTTING_DOWN: Final = "the server is shutting down; ask again to go on"

MOST_WAITING: Final = 4096
"""Lines kept for a client that reads slowly; more than any operation has layers and steps."""

CANCEL_AGAIN_SECONDS: Final = 1.0
CANCELS_KEPT: Final = 10_000

Command = PullModel | PushModel | CreateModel


class Operation:
    """One operation as its client sees it: each line of progress; how far a layer is, only the latest.

    Close it in every case: closing before the end cancels the operation, unless others wait for the same.
    """

    def __init__(self, operations: "Operations", operation_id: str, silence_seconds: float) -> None:
        self._operations = operations
        self.operation_id = operation_id
        self.owner = actor.current().organization_id, actor.current().user_id
        self._silence_seconds = silence_seconds
        self._waiting: dict[object, Progress] = {}
        self._finished = False
        self._failure: Failure | None = None
        self._news = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Raises the ``ServiceError`` it failed with, after its last line; ``DeadlineExceeded`` after long silence."""
        while True:
            while self._waiting:
                yield self._waiting.pop(next(iter(self._waiting)))
            if self._finished:
                break
            await self._hear_more()
        if self._failure is not None:
            raise rebuild(self._failure.code, self._failure.message)

    async def aclose(self) -> None:
        self._operations.forget(self.operation_id, cancel=not self._finished)

    def hear(self, report: OperationReported) -> None:
        if self._finished:
            return  # told again, for those who missed it
        for progress in report.progress:
            line = (progress.status, progress.digest) if progress.digest else object()
            self._waiting[line] = progress
            if len(self._waiting) > MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
        self._failure, self._finished = report.error, report.finished
        self._news.set()

    async def _hear_more(self) -> None:
        """A report that says nothing is a sign of life."""
        self._news.clear()
        try:
            async with asyncio.timeout(self._silence_seconds):
                await self._news.wait()
        except TimeoutError:
            raise DeadlineExceeded("nothing has been heard of this operation for too long") from None


class Operations:
    """Those that clients of this gateway follow."""

    def __init__(self, bus: Bus, tasks: Tasks, silence_seconds: float, most_per_caller: int) -> None:
        self._most_per_caller = most_per_caller
        self._bus = bus
        self._tasks = tasks
        self._silence_seconds = silence_seconds
        self._followed: dict[str, Operation] = {}
        self._cancelled: LRUCache[str, float] = LRUCache(CANCELS_KEPT)
        """When the cancel was last sent. It is lost where no registry listens at that moment."""

        self._stopped = False

    def __len__(self) -> int:
        return len(self._followed)

    async def start(self, command: Command) -> Operation:
        """Followed first, then sent, so that no report is missed. Raises ``Unavailable`` and ``RateLimited``."""
        if self._stopped:
            raise Unavailable(SHUTTING_DOWN)
        operation = Operation(self, command.operation_id, self._silence_seconds)
        if sum(other.owner == operation.owner for other in self._followed.values()) >= self._most_per_caller:
            raise too_many(self._most_per_caller, "pulls, pushes and creates")
        self._followed[command.operation_id] = operation
        try:
            await self._bus.send(command, message_id=command.operation_id)
        except BaseException:
            # Sent or not, we cannot know: the cancel is for the case that it was.
            await operation.aclose()
            raise
        return operation

    def without_work(self, command: Command, status: str, error: ServiceError) -> Operation:
        """One that tells this and fails, without anybody being asked."""
        operation = Operation(self, command.operation_id, self._silence_seconds)
        failure = Failure(code=error.code, message=error.message)
        progress = (Progress(status=status),)
        operation.hear(
            OperationReported(operation_id=command.operation_id, progress=progress, finished=True, error=failure)
        )
        return operation

    def hear(self, report: OperationReported) -> None:
        operation = self._followed.get(report.operation_id)
        if operation is not None:
            operation.hear(report)
        elif report.finished:
            self._cancelled.pop(report.operation_id, None)
        elif time.monotonic() - self._cancelled.get(report.operation_id, math.inf) >= CANCEL_AGAIN_SECONDS:
            self._cancel(report.operation_id)

    def stop_following(self) -> None:
        """We hear nothing any more. The work goes on, so whoever asks for it again finds it begun or done."""
        self._stopped = True
        error = Unavailable(SHUTTING_DOWN)
        failure = Failure(code=error.code, message=error.message)
        for operation in self._followed.values():
            operation.hear(OperationReported(operation_id=operation.operation_id, finished=True, error=failure))

    def forget(self, operation_id: str, *, cancel: bool) -> None:
        if self._followed.pop(operation_id, None) is not None and cancel:
            self._cancel(operation_id)

    def _cancel(self, operation_id: str) -> None:
        self._cancelled[operation_id] = time.monotonic()
        # In a task of the process: the task of a client that went away is itself being cancelled.
        self._tasks.start(self._publish_cancel(operation_id), "cancel an operation")

    async def _publish_cancel(self, operation_id: str) -> None:
        try:
            await self._bus.publish(OperationCancelled(operation_id=operation_id))
        except Unavailable as error:
            log.warning("could not publish a cancel", operation_id=operation_id, error=str(error))
