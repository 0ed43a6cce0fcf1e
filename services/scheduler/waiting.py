"""The waiting set: requests in the order they will be tried. Pure: no clock, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass

from libs.common.bus.base import Delivery
from libs.common.contracts.inference import Priority
from libs.common.contracts.scheduler import RequestInference

ORDER: tuple[Priority, ...] = ("interactive", "batch")


@dataclass
class Waiting:
    """A request that has no worker yet. Its delivery stays unacknowledged: RabbitMQ is the write-ahead log."""

    request: RequestInference
    delivery: Delivery | None
    """None when a silent worker still holds the broker's copy."""

    arrived_at: float
    traceparent: str | None = None
    epoch: int = 1
    last_seq: int = 0
    """The last frame already in its token log."""

    unsure: bool = False
    """A scheduler that died may have granted it already: fence that grant before the next one."""


class WaitingSet:
    """First in, first out within a priority; a request that comes back from a lost worker goes to the front."""

    def __init__(self) -> None:
        self._queues: dict[Priority, dict[str, Waiting]] = {priority: {} for priority in ORDER}
        self._returned: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._returned) + sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Waiting]:
        """In the order to be tried; a snapshot, so that the set may change meanwhile."""
        yield from list(self._returned.values())
        for priority in ORDER:
            yield from list(self._queues[priority].values())

    def __contains__(self, request_id: str) -> bool:
        return self.get(request_id) is not None

    def get(self, request_id: str) -> Waiting | None:
        for queue in (self._returned, *self._queues.values()):
            if request_id in queue:
                return queue[request_id]
        return None

    def add(self, waiting: Waiting) -> None:
        self._queues[waiting.request.priority][waiting.request.request_id] = waiting

    def put_back(self, waiting: Waiting) -> None:
        self._returned[waiting.request.request_id] = waiting

    def remove(self, request_id: str) -> Waiting | None:
        for queue in (self._returned, *self._queues.values()):
            if request_id in queue:
                return queue.pop(request_id)
        return None
