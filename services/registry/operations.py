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
from libs.common.contracts.registry import CreateModel, Failure, OperationReported, PullModel, PushModel
from libs.common.errors import Overloaded, RequestCancelled, ServiceError
from libs.common.tasks import Tasks
from services.registry.progress import Report, Reports

log = structlog.get_logger(__name__)

Kind = PullModel | PushModel | CreateModel
Work = Callable[[Report], Awaitable[None]]

# Pulls and pushes wait for networks, and share the streams of their bytes; creating takes a processor.
RUNNING_AT_ONCE: Final[dict[type[Kind], int]] = {PullModel: 32, PushModel: 8, CreateModel: 2}

MOST_HELD: Final = 200
"""Of each kind, running and waiting."""

PREFETCH: Final = MOST_HELD + 50
"""What is too much must be delivered, too, to be refused."""


@dataclass(eq=False)
class Operation:
    id: str
    deliveries: list[Delivery]
    """More than one once the broker took it away and gave it again."""

    reports: Reports
    task: "asyncio.Task[None] | None" = None
    cancelled: bool = False
    ended: bool = False


@dataclass
class Lane:
    slots: asyncio.Semaphore
    held: dict[str, Operation] = field(default_factory=dict)


class Operations:
    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self._bus = bus
        self._tasks = tasks
        self._lanes = {kind: Lane(asyncio.Semaphore(slots)) for kind, slots in RUNNING_AT_ONCE.items()}
        self._cancelled: TTLCache[str, None] = TTLCache(maxsize=10_000, ttl=600)
        """Cancels may overtake their command, and a command may come back after its cancel."""

    def __len__(self) -> int:
        return sum(len(lane.held) for lane in self._lanes.values())

    async def accept(self, command: Kind, delivery: Delivery, work: Work) -> None:
        """Returns soon; the delivery is acknowledged when the end of the work is told.

        Raises ``Unavailable``, for what is refused.
        """
        lane = self._lanes[type(command)]
        if (running := lane.held.get(command.operation_id)) is not None:
            running.deliveries.append(delivery)
        elif command.operation_id in self._cancelled:
            await self._refuse(command.operation_id, delivery, RequestCancelled())
        elif len(lane.held) >= MOST_HELD:
            await self._refuse(command.operation_id, delivery, Overloaded())
        else:
            reports = Reports(self._bus, command.operation_id)
            operation = Operation(command.operation_id, [delivery], reports)
            lane.held[operation.id] = operation
            operation.task = self._tasks.start(self._run(lane, operation, work), name=f"operation {operation.id}")

    def cancel(self, operation_id: str) -> None:
        """Nobody waits for it any more. Nothing happens if its end is told already."""
        self._cancelled[operation_id] = None
        for lane in self._lanes.values():
            operation = lane.held.get(operation_id)
            if operation is not None and operation.task is not None and not operation.ended:
                operation.cancelled = True
                operation.task.cancel()

    async def hand_over(self) -> None:
        """Let go of everything without an end: whoever gets the commands next goes on."""
        tasks = [held.task for lane in self._lanes.values() for held in lane.held.values() if held.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refuse(self, operation_id: str, delivery: Delivery, error: ServiceError) -> None:
        await self._bus.publish(OperationReported(operation_id=operation_id, finished=True, error=_failure(error)))
        await delivery.ack()

    async def _run(self, lane: Lane, operation: Operation, work: Work) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(operation.reports.send_all())
                error = await self._outcome(lane, operation, work)
                operation.ended = True
                operation.reports.finish(None if error is None else _failure(error))
        finally:
            del lane.held[operation.id]
        for delivery in operation.deliveries:
            await delivery.ack()
        self._tasks.start(operation.reports.tell_end_again(), name=f"end of operation {operation.id}")

    async def _outcome(self, lane: Lane, operation: Operation, work: Work) -> ServiceError | None:
        try:
            async with lane.slots:
                await work(operation.reports)
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
        return None


def _failure(error: ServiceError) -> Failure:
    return Failure(code=error.code, message=error.message)
