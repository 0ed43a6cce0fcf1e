"""Grants of slots, and who has them. Pure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from libs.common.contracts.scheduler.inference import RequestInference

if TYPE_CHECKING:
    from services.scheduler.fleet import Worker


@dataclass
class Grant:
    """One request on one worker. ``request`` is None when another scheduler made the grant."""

    request_id: str
    epoch: int
    runner: str
    granted_at: float
    request: RequestInference | None = None
    alone: bool = False
    """It may be what kills workers: nobody else is sent to where it runs."""

    taken: bool = False
    """A heartbeat has told that it runs."""

    sent: bool = True
    """False as long as nobody knows that its message has left: its worker cannot tell of it then."""

    has_others: bool = False
    """Another worker could load its model, should this one fail to."""


class Holders:
    """Which workers have a request: more than one for a while, when it was taken from a silent one."""

    def __init__(self) -> None:
        self._workers: dict[str, list[Worker]] = {}

    def add(self, request_id: str, worker: "Worker") -> None:
        self._workers.setdefault(request_id, []).append(worker)

    def drop(self, request_id: str, worker: "Worker") -> bool:
        """True if that was the last one."""
        workers = self._workers[request_id]
        workers.remove(worker)
        if not workers:
            del self._workers[request_id]
        return not workers

    def of(self, request_id: str) -> "list[Worker]":
        return self._workers.get(request_id, [])
