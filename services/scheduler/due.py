"""Requests by a time of each, the earliest first. Pure."""

from heapq import heapify, heappop, heappush

from services.scheduler.accounts import HEAP_SLACK


class Due:
    """What has left stays in the heap until it comes up, or too many have."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def add(self, request_id: str, at: float) -> None:
        self._at[request_id] = at
        heappush(self._heap, (at, request_id))
        if len(self._heap) > 2 * len(self._at) + HEAP_SLACK:
            self._heap = [(at, request_id) for request_id, at in self._at.items()]
            heapify(self._heap)

    def discard(self, request_id: str) -> None:
        self._at.pop(request_id, None)

    def take(self, before: float) -> list[str]:
        """Remove those whose time is before."""
        taken = []
        while self._heap and self._heap[0][0] < before:
            at, request_id = heappop(self._heap)
            if self._at.get(request_id) == at:
                del self._at[request_id]
                taken.append(request_id)
        return taken
