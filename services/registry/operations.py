"""Work that takes minutes: pull, push, create. The unacknowledged command is the lease.

Who dies with one loses it to the next registry, which begins again and finds most of it done. A broker that takes a
command away from a living process (a lost connection, its ``consumer_timeout``) delivers it again, too: it joins the
work that is going on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
from cachetools import TTLCache

from libs.common.bus.base import Bus, Delivery
from libs.common.contracts.registry import CreateModel, Failure, PullModel, PushModel
from libs.common.errors import Overloaded, RequestCancelled, ServiceError, Unavailable
from libs.common.tasks import Tasks
from services.registry.progress import Report, Reports

log = structlog.get_logger(__name__)

Kind = PullModel | PushModel | CreateModel
Work = Callable[[Report], Awaitable[None]]
Ended = Callable[[ServiceError | None], Awaitable[None]]
"""Notes how it ended, once or more often."""


async def unnoted(_error: ServiceError | None) -> None:
    """For work that somebody waits for."""


# They wait for networks, a create for its base, and share the streams of their bytes.
RUNNING_AT_ONCE: Final[dict[type[Kind], int]] = {PullModel: 32, PushModel: 8, CreateModel: 32}

MOST_HELD: Final = 200
"""Of each kind, running and waiting."""

PREFETCH: Final = MOST_HELD + 50
"""What is too much must be delivered, too, to be refused."""

AGAIN_SECONDS: Final = (1.0, 5.0, 30.0)
"""Pauses before work goes on that found Postgres or the broker away."""


@dataclass(eq=False)
class Operation:
    id: str
    deliveries: list[Delivery]
    """More than one once the broker took it away and gave it again."""

    reports: Reports
    ended: Ended
    task: "asyncio.Task[None] | None" = None
    working: bool = False
    """Its task may be interrupted: not before its first step, which would be its last, nor while its end is told."""

    cancelled: bool = False


@dataclass
class Lane:
    slots: asyncio.Semaphore
    held: dict[str, Operation] = field(default_factory=dict)


class Operations:
    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self._bus = bus
        self._tasks = tasks
        self._lanes = {kind: Lane(asyncio.Semaphore(slots)) for kind, slots in RUNNING_AT_ONCE.items()}
        self._over: TTLCache[str, None] = TTLCache(maxsize=10_000, ttl=600)
        """Ended or cancelled: a command may come back after that, and cancels may overtake their command."""

    def __len__(self) -> int:
        return sum(len(lane.held) for lane in self._lanes.values())

    async def accept(self, command: Kind, delivery: Delivery, work: Work, ended: Ended = unnoted) -> None:
        """Returns soon; the delivery is acknowledged when the end of the work is noted and told."""
        lane = self._lanes[type(command)]
        if (running := lane.held.get(command.operation_id)) is not None:
            running.deliveries.append(delivery)
        elif command.operation_id in self._over:
            await delivery.ack()
        else:
            operation = Operation(command.operation_id, [delivery], Reports(self._bus, command.operation_id), ended)
            if len(lane.held) >= MOST_HELD:
                await self._refuse(operation)
            else:
                lane.held[operation.id] = operation
                operation.task = self._tasks.start(self._run(lane, operation, work), name=f"operation {operation.id}")

    def cancel(self, operation_id: str) -> None:
        """Nobody waits for it any more. Nothing happens if that was said before, or if its end is being told."""
        self._over[operation_id] = None
        for lane in self._lanes.values():
            operation = lane.held.get(operation_id)
            if operation is not None and not operation.cancelled:
                operation.cancelled = True
                if operation.working and operation.task is not None:
                    operation.task.cancel()

    async def hand_over(self, seconds: float) -> None:
        """Let go of everything without an end: whoever gets the commands next goes on. Takes no longer than this."""
        tasks = [held.task for lane in self._lanes.values() for held in lane.held.values() if held.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _refuse(self, operation: Operation) -> None:
        error = Overloaded()
        await _note(operation, error)
        operation.reports.finish(_failure(error))
        await operation.reports.send_all()
        await self._settle(operation)

    async def _run(self, lane: Lane, operation: Operation, work: Work) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(operation.reports.send_all())
                error = RequestCancelled() if operation.cancelled else await self._outcome(lane, operation, work)
                await _note(operation, error)
                operation.reports.finish(None if error is None else _failure(error))
        finally:
            del lane.held[operation.id]
        await self._settle(operation)

    async def _settle(self, operation: Operation) -> None:
        """Its end is told: it must not begin again."""
        self._over[operation.id] = None
        for delivery in operation.deliveries:
            await delivery.ack()
        self._tasks.start(operation.reports.tell_end_again(), name=f"end of operation {operation.id}")

    async def _outcome(self, lane: Lane, operation: Operation, work: Work) -> ServiceError | None:
        operation.working = True
        try:
            async with lane.slots:
                await _with_patience(work, operation.reports)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not operation.cancelled or task is None:
                raise
            task.uncancel()
            return RequestCancelled()
        except ServiceError as error:
            log.warning("an operation failed", operation=operation.id, code=error.code, error=error.message)
            return error
        except OSError as error:
            log.error("an operation failed", operation=operation.id, exc_info=error)
            return ServiceError(error.strerror)
        except Exception:  # the edge: whatever befell one operation, the others go on
            log.exception("an operation crashed", operation=operation.id)
            return ServiceError()
        finally:
            operation.working = False
        return None


async def _with_patience(work: Work, report: Report) -> None:
    """A restart of Postgres must not end what has taken hours; what is done already takes no time again."""
    for pause in AGAIN_SECONDS:
        try:
            await work(report)
        except Unavailable as error:
            log.warning("work will go on", seconds=pause, why=error.message)
            await asyncio.sleep(pause)
        else:
            return
    await work(report)


async def _note(operation: Operation, error: ServiceError | None) -> None:
    """As long as it takes: who asked without waiting would take it for under way for ever."""
    while True:
        try:
            await operation.ended(error)
            return
        except Unavailable as away:
            log.warning("the end of an operation waits", operation=operation.id, why=away.message)
            await asyncio.sleep(AGAIN_SECONDS[0])
        except Exception:  # the edge: as for the work itself
            log.exception("the end of an operation is not noted", operation=operation.id)
            return


def _failure(error: ServiceError) -> Failure:
    return Failure(code=error.code, message=error.message)
