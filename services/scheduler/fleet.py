"""What the scheduler knows of the workers: their heartbeats, and the grants it has made since. No I/O.

Every replica keeps it, so that a stand-by knows the fleet the moment it becomes active.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from libs.common.contracts.scheduler import RequestInference
from libs.common.contracts.worker import WorkerHeartbeat

GRANT_SETTLES_SECONDS = 3.0
"""A heartbeat older than the grant's arrival does not mention it; after this long it would."""


@dataclass
class Grant:
    """One request on one worker. ``request`` is None when another scheduler made the grant."""

    request_id: str
    epoch: int
    runner: str
    granted_at: float
    request: RequestInference | None = None


@dataclass
class Worker:
    heartbeat: WorkerHeartbeat
    heard_at: float
    grants: dict[str, Grant] = field(default_factory=dict)
    unreachable: bool = False
    """Its queue was gone when we sent; a heartbeat sets this right."""

    _by_model: Counter[str] = field(default_factory=Counter)
    """Grants per model, kept beside them: placement asks for every request and worker."""

    def grant(self, grant: Grant) -> None:
        self.take_back(grant.request_id)
        self.grants[grant.request_id] = grant
        self._by_model[grant.runner] += 1

    def take_back(self, request_id: str) -> bool:
        """False if it had no such grant."""
        grant = self.grants.pop(request_id, None)
        if grant is None:
            return False
        self._by_model[grant.runner] -= 1
        if not self._by_model[grant.runner]:
            del self._by_model[grant.runner]
        return True

    def granted_to(self, runner: str) -> int:
        return self._by_model[runner]

    def models_in_use(self) -> Collection[str]:
        return self._by_model.keys()


class Fleet:
    """Times are seconds of one monotonic clock, handed in."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __getitem__(self, worker_id: str) -> Worker:
        return self._workers[worker_id]

    def __len__(self) -> int:
        return len(self._workers)

    def hear(self, heartbeat: WorkerHeartbeat, now: float) -> bool:
        """Take in a heartbeat; True if it may have freed a slot or brought a worker."""
        worker = self._workers.get(heartbeat.worker_id)
        if heartbeat.state == "offline":
            return self._workers.pop(heartbeat.worker_id, None) is not None
        if worker is None:
            worker = self._workers[heartbeat.worker_id] = Worker(heartbeat, now)
            self._reconcile(worker, now)
            return True
        changed = worker.unreachable or worker.heartbeat.state != heartbeat.state
        worker.heartbeat, worker.heard_at, worker.unreachable = heartbeat, now, False
        return self._reconcile(worker, now) or changed

    def _reconcile(self, worker: Worker, now: float) -> bool:
        """Believe the worker about what it runs, but for grants so young that it may not have got them yet."""
        running = {entry.request_id: entry for entry in worker.heartbeat.running}
        gone = [
            grant.request_id
            for grant in worker.grants.values()
            if grant.request_id not in running and now - grant.granted_at > GRANT_SETTLES_SECONDS
        ]
        for request_id in gone:
            worker.take_back(request_id)
        for request_id, entry in running.items():
            if request_id not in worker.grants:
                # Old from the start: the worker has it, so the first heartbeat without it frees the slot.
                worker.grant(Grant(request_id, entry.epoch, entry.runner, now - GRANT_SETTLES_SECONDS))
        return bool(gone)

    def release(self, worker_id: str, request_id: str) -> bool:
        """The slot is free again; False if we did not know it was taken."""
        worker = self._workers.get(worker_id)
        return worker is not None and worker.take_back(request_id)

    def mark_unreachable(self, worker_id: str) -> None:
        if worker_id in self._workers:
            self._workers[worker_id].unreachable = True

    def holds(self, request_id: str) -> bool:
        """Has a worker got it?"""
        return any(request_id in worker.grants for worker in self._workers.values())

    def running_above(self, request_id: str, epoch: int) -> bool:
        """Is a later attempt than ``epoch`` under way on a worker we hear?"""
        return any(
            (grant := worker.grants.get(request_id)) is not None and grant.epoch > epoch
            for worker in self._workers.values()
        )

    def excuse_silence(self, now: float) -> None:
        """We are the ones who cannot hear."""
        for worker in self._workers.values():
            worker.heard_at = now

    def remove_silent(self, now: float, silence_seconds: float) -> list[Worker]:
        """Forget the workers not heard for this long, and return them with the grants they held."""
        lost = [worker for worker in self._workers.values() if now - worker.heard_at > silence_seconds]
        for worker in lost:
            del self._workers[worker.heartbeat.worker_id]
        return lost
