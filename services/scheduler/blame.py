"""Whose fault it was that an attempt ended: only what a request may have caused itself counts against it."""

from dataclasses import dataclass
from typing import Final, Protocol

from libs.common.contracts.scheduler.inference import AttemptEnd, AttemptRecord, RequestInference
from libs.common.contracts.worker import RunInference
from services.scheduler.fleet import Fleet, Worker
from services.scheduler.grants import Grant

SHAKEN_SECONDS: Final = 10.0
"""After our own connection came back, leases return because of the broker."""

OVERDUE_SECONDS: Final = 1.5
"""Since the last heartbeat; they come every second."""

MOST_NOT_TAKEN: Final = 3
"""A request that kills its worker at once is never told of as running, and looks like one that nobody took."""

LAST_WORDS_SECONDS: Final = 1.0
"""What a worker said before its death may arrive so much later."""


class Connection(Protocol):
    """What a ``Bus`` tells of itself."""

    @property
    def connected(self) -> bool: ...

    @property
    def connections(self) -> int: ...


@dataclass
class Link:
    """Our own connection to the broker. Clocks are monotonic."""

    connections: int = 1
    since: float = float("-inf")

    def look(self, bus: Connection, now: float) -> bool:
        """Called all the time; True when it is another connection than the last time."""
        renewed = bus.connections != self.connections
        if renewed or not bus.connected:
            self.connections, self.since = bus.connections, now
        return renewed

    def steady(self, bus: Connection) -> bool:
        """Is it the one we looked at?"""
        return bus.connected and bus.connections == self.connections

    def shaken(self, bus: Connection, now: float) -> bool:
        """Was it lost a moment ago?"""
        return not self.steady(bus) or now - self.since < SHAKEN_SECONDS


def of_returned_lease(run: RunInference, grant: Grant | None, age_seconds: float) -> AttemptEnd:
    """Its worker's connection closed.

    ``grant``: None if its worker is not known any more, having left. ``age_seconds``: of the lease, which the broker
    returns at its end or later, unless the worker itself refused it.
    """
    taken = grant is not None and grant.taken
    not_taken = sum(attempt.ended == "not_taken" for attempt in run.request.attempts)
    lay_there = not taken and age_seconds >= RunInference.lease_ttl_seconds and not_taken < MOST_NOT_TAKEN
    return "not_taken" if lay_there else "worker_lost"


def of_silence(worker: Worker, grant: Grant) -> AttemptEnd:
    """If it was silent already when it was granted the request, that was not what silenced it."""
    was_overdue = grant.granted_at - worker.heard_at > OVERDUE_SECONDS
    return "not_taken" if was_overdue and not grant.taken else "worker_silent"


def acquit(request: RequestInference, fleet: Fleet, now: float, clock: float) -> RequestInference:
    """A worker that is heard after it was taken for dead lives: its connection was lost, or its machine had no time.

    ``now`` on the wall, ``clock`` as the fleet's.
    """
    attempts = tuple(
        attempt.model_copy(update={"ended": "broker_lost"}) if _lives(attempt, fleet, now, clock) else attempt
        for attempt in request.attempts
    )
    return request if attempts == request.attempts else request.model_copy(update={"attempts": attempts})


def _lives(attempt: AttemptRecord, fleet: Fleet, now: float, clock: float) -> bool:
    if attempt.ended not in ("worker_lost", "worker_silent") or attempt.ended_at is None:
        return False
    worker = fleet.get(attempt.worker_id)
    return worker is not None and now - (clock - worker.heard_at) > attempt.ended_at + LAST_WORDS_SECONDS
