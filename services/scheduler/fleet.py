"""What the scheduler knows of the workers: their heartbeats, and the grants it has made since. No I/O.

Every replica keeps it, so that a stand-by knows the fleet the moment it becomes active.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.worker import LoadedModel, WorkerHeartbeat
from services.scheduler.grants import Grant, Holders
from services.scheduler.loads import Loads
from services.scheduler.openings import MOST_LOOKED_AT, Kind, Openings
from services.scheduler.prefixes import Prefixes
from services.scheduler.throughput import Throughput

GRANT_SETTLES_SECONDS = 3.0
"""A heartbeat older than the grant's arrival does not mention it; after this long it would."""


@dataclass(eq=False)
class Worker:
    heartbeat: WorkerHeartbeat
    heard_at: float
    grants: dict[str, Grant] = field(default_factory=dict)
    unreachable: bool = False
    """Its queue was gone when we sent; a heartbeat sets this right."""

    node_drains: bool = False
    """Somebody wants its node to get nothing new."""

    reserved_for: str | None = None
    """A request that must run alone: nothing else is sent here."""

    fleet: "Fleet | None" = field(default=None, repr=False)
    """Hears of every change, as long as it counts this worker among its own."""

    _by_model: Counter[str] = field(default_factory=Counter)
    """Grants per model, kept beside them: placement asks for every request and worker."""

    _alone: set[str] = field(default_factory=set)
    """Requests among its grants that run alone."""

    def __post_init__(self) -> None:
        self._read()

    def _read(self) -> None:
        beat = self.heartbeat
        self.id = beat.worker_id
        self.loaded: dict[str, LoadedModel] = {loaded.runner: loaded for loaded in beat.loaded}
        self.kind: Kind = (beat.engines, tuple(virtual.pattern for virtual in beat.virtual_models))

    def hear(self, heartbeat: WorkerHeartbeat, now: float) -> None:
        self.heartbeat, self.heard_at, self.unreachable = heartbeat, now, False
        self._read()

    def grant(self, grant: Grant) -> None:
        self.take_back(grant.request_id)
        self.grants[grant.request_id] = grant
        self._by_model[grant.runner] += 1
        if grant.alone:
            self._alone.add(grant.request_id)
        if self.fleet is not None:
            self.fleet.has_granted(self, grant)

    def take_back(self, request_id: str) -> bool:
        """False if it had no such grant."""
        grant = self.grants.pop(request_id, None)
        if grant is None:
            return False
        self._alone.discard(request_id)
        self._by_model[grant.runner] -= 1
        if not self._by_model[grant.runner]:
            del self._by_model[grant.runner]
        if self.fleet is not None:
            self.fleet.has_taken_back(self, request_id)
        return True

    def granted_to(self, runner: str) -> int:
        return self._by_model[runner]

    def own_grants(self, runner: str) -> list[Grant]:
        """Those of this scheduler: it knows when it made them, and what for."""
        return [grant for grant in self.grants.values() if grant.runner == runner and grant.request is not None]

    def models_in_use(self) -> Set[str]:
        return self._by_model.keys()

    def models_at_hand(self) -> Set[str]:
        """In memory, or on the way there."""
        return self.loaded.keys() | self._by_model.keys()

    @property
    def takes_work(self) -> bool:
        return self.heartbeat.state == "active" and not self.unreachable and not self.node_drains

    @property
    def has_suspect(self) -> bool:
        return bool(self._alone)

    @property
    def is_full(self) -> bool:
        return len(self.grants) >= self.heartbeat.slots

    def slots_for(self, runner: str) -> int:
        """A loaded model says itself how many it has."""
        loaded = self.loaded.get(runner)
        return loaded.slots if loaded else self.heartbeat.slots_per_model

    def has_slot_for(self, runner: str) -> bool:
        return self.granted_to(runner) < self.slots_for(runner)

    @property
    def has_room(self) -> bool:
        """For one more model, beside those in use; idle ones can be evicted."""
        return len(self._by_model) < self.heartbeat.max_loaded_models


class Fleet:
    """Times are seconds of one monotonic clock, handed in."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._draining: set[str] = set()
        self.said_goodbye: set[str] = set()
        """Nodes of workers that went in an orderly way, until they are heard again."""

        self._holders = Holders()
        self._deaf_until = float("-inf")
        self._openings = Openings()
        self._prefixes = Prefixes()
        self._loads = Loads()
        self.throughput = Throughput()

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __getitem__(self, worker_id: str) -> Worker:
        return self._workers[worker_id]

    def get(self, worker_id: str) -> Worker | None:
        return self._workers.get(worker_id)

    def __len__(self) -> int:
        return len(self._workers)

    def hear(self, heartbeat: WorkerHeartbeat, now: float) -> bool:
        """Take in a heartbeat; True if it may have freed a slot or brought a worker."""
        worker = self._workers.get(heartbeat.worker_id)
        if heartbeat.state == "offline":
            self.said_goodbye.add(heartbeat.node)
            if worker is not None:
                self._remove(worker)
            return worker is not None
        self.said_goodbye.discard(heartbeat.node)
        if worker is None:
            worker = Worker(heartbeat, now, node_drains=heartbeat.node in self._draining, fleet=self)
            self._workers[worker.id] = worker
            changed = True
        else:
            changed = worker.unreachable or worker.heartbeat.state != heartbeat.state
            self._loads.learn(worker, heartbeat, now)
            worker.hear(heartbeat, now)
        changed = self._reconcile(worker, now) or changed
        self._prefixes.keep_only(worker.id, worker.models_at_hand())
        self._openings.update(worker)
        return changed

    def _remove(self, worker: Worker) -> None:
        """It keeps its grants, for whoever looks what is lost."""
        del self._workers[worker.id]
        worker.fleet = None
        for request_id in worker.grants:
            self._let_go(worker, request_id)
        self._openings.remove(worker)
        self._prefixes.forget(worker.id)

    def reserve(self, worker: Worker, request_id: str | None) -> None:
        worker.reserved_for = request_id
        if worker.fleet is self:
            self._openings.update(worker)

    def load_seconds(self, model: ModelRef) -> float:
        """How long a load takes."""
        return self._loads.seconds(model)

    def has_granted(self, worker: Worker, grant: Grant) -> None:
        self._holders.add(grant.request_id, worker)
        self.throughput.started(grant.runner, grant.request_id, grant.granted_at)
        if grant.request is not None:
            self._prefixes.remember(worker.id, grant.runner, grant.request.prefix)
        self._openings.update(worker)

    def has_taken_back(self, worker: Worker, request_id: str) -> None:
        self._let_go(worker, request_id)
        self._openings.update(worker)

    def _let_go(self, worker: Worker, request_id: str) -> None:
        if self._holders.drop(request_id, worker):
            self.throughput.dropped(request_id)

    def candidates(self, request: RequestInference, *, loads: bool, alone: bool = False) -> Iterator[list[Worker]]:
        """Who may run it, in groups, the likely ones first. Of a small fleet all, in one.

        ``loads`` false: a worker would not be told to load the model. ``alone``: where nothing runs.
        """
        if len(self._workers) <= MOST_LOOKED_AT:
            yield list(self._workers.values())
            return
        if alone:
            idle = [worker for worker in self._workers.values() if worker.takes_work and not worker.grants]
            yield from (idle[start : start + MOST_LOOKED_AT] for start in range(0, len(idle), MOST_LOOKED_AT))
            return
        preferred = [self._workers[worker_id] for worker_id in self._prefixes.holders(request.prefix)]
        yield from self._openings.candidates(request.model, preferred, loads=loads)

    def copies(self, runner: str) -> Iterator[Worker]:
        """Workers that take work and have it in memory, or soon will."""
        return self._openings.copies(runner)

    def prefix_matched(self, worker: Worker, runner: str, prefix: Sequence[int]) -> int:
        """How many of these beginnings its cache may have."""
        return self._prefixes.matched(worker.id, runner, prefix)

    def _reconcile(self, worker: Worker, now: float) -> bool:
        """Believe the worker about what it runs, but for grants that it may not have got yet."""
        running = {entry.request_id: entry for entry in worker.heartbeat.running}
        gone = [
            grant.request_id
            for grant in worker.grants.values()
            if grant.request_id not in running and grant.sent
            if grant.taken or now - grant.granted_at > GRANT_SETTLES_SECONDS
        ]
        for request_id in gone:
            self.throughput.vacated(request_id, now)
            worker.take_back(request_id)
        for request_id, entry in running.items():
            if request_id not in worker.grants:
                worker.grant(Grant(request_id, entry.epoch, entry.runner, now))
            grant = worker.grants[request_id]
            grant.taken |= entry.epoch >= grant.epoch
        return bool(gone)

    def release(self, worker_id: str, request_id: str) -> bool:
        """The slot is free again; False if we did not know it was taken."""
        worker = self._workers.get(worker_id)
        return worker is not None and worker.take_back(request_id)

    def mark_unreachable(self, worker_id: str) -> None:
        if (worker := self._workers.get(worker_id)) is not None:
            worker.unreachable = True
            self._openings.update(worker)

    @property
    def draining_nodes(self) -> frozenset[str]:
        return frozenset(self._draining)

    def drain(self, nodes: Iterable[str]) -> None:
        """These nodes, and no others, get nothing new."""
        self._draining = set(nodes)
        for worker in self._workers.values():
            worker.node_drains = worker.heartbeat.node in self._draining
            self._openings.update(worker)

    def of_node(self, node: str) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.heartbeat.node == node]

    def holds(self, request_id: str) -> bool:
        """Has a worker got it?"""
        return bool(self._holders.of(request_id))

    def holder(self, request_id: str) -> Worker | None:
        return next(iter(self._holders.of(request_id)), None)

    def running_above(self, request_id: str, epoch: int) -> bool:
        """Is a later attempt than ``epoch`` under way on a worker we hear?"""
        return any(worker.grants[request_id].epoch > epoch for worker in self._holders.of(request_id))

    def excuse_silence(self, now: float) -> None:
        """We are the ones who could not hear, up to now."""
        self._deaf_until = now

    def remove_silent(self, now: float, silence_seconds: float) -> list[Worker]:
        """Forget the workers not heard for this long, and return them with the grants they held."""
        since = now - silence_seconds
        lost = [worker for worker in self._workers.values() if max(worker.heard_at, self._deaf_until) < since]
        for worker in lost:
            self._remove(worker)
        return lost
