"""Which workers could take something now: indices, so that placement need not look at all of a big fleet. Pure."""

import random
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from libs.common.contracts.inference import ModelRef

if TYPE_CHECKING:
    from services.scheduler.fleet import Worker

Kind = tuple[tuple[str, ...], tuple[str, ...]]
"""What a worker can run: its engines, and patterns of names it serves without weights of ours."""

MOST_LOOKED_AT: Final = 16
MOST_BY_PREFIX: Final = 4
MOST_OF_A_POOL: Final = 8

Key = TypeVar("Key", str, Kind)


def can_run(model: ModelRef, kind: Kind) -> bool:
    engines, patterns = kind
    return model.engine in engines and (
        model.weights is not None or any(fnmatchcase(model.name, pattern) for pattern in patterns)
    )


class Pool:
    """A set of workers of which some are drawn at random, whatever its size."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> "Iterator[Worker]":
        return iter(self._workers)

    def __contains__(self, worker: "Worker") -> bool:
        return worker.id in self._places

    def add(self, worker: "Worker") -> None:
        if worker.id not in self._places:
            self._places[worker.id] = len(self._workers)
            self._workers.append(worker)

    def discard(self, worker: "Worker") -> None:
        place = self._places.pop(worker.id, None)
        if place is None:
            return
        last = self._workers.pop()
        if last.id != worker.id:
            self._workers[place] = last
            self._places[last.id] = place

    def draw(self, most: int) -> "list[Worker]":
        if len(self._workers) <= most:
            return self._workers.copy()
        return random.sample(self._workers, most)


class _Listing(NamedTuple):
    """Where a worker is listed: the keys of its pools."""

    copies: frozenset[str] = frozenset()
    with_slot: frozenset[str] = frozenset()
    with_room: frozenset[Kind] = frozenset()


_NOWHERE: Final = _Listing()
_NOBODY: Final = Pool()


class Openings:
    """Workers by what they could begin: one more request of a model they have, or a load of any model."""

    def __init__(self) -> None:
        self._copies: defaultdict[str, Pool] = defaultdict(Pool)
        """By runner: it is in memory there or on its way."""

        self._with_slot: defaultdict[str, Pool] = defaultdict(Pool)
        """Those of them with a free slot for it."""

        self._with_room: defaultdict[Kind, Pool] = defaultdict(Pool)
        """A free slot, and room for one more model beside those in use."""

        self._listed: dict[str, _Listing] = {}

    def update(self, worker: "Worker") -> None:
        """After every change of what it has, holds or may take."""
        self._list(worker, _listing(worker))

    def remove(self, worker: "Worker") -> None:
        self._list(worker, _NOWHERE)
        self._listed.pop(worker.id, None)

    def _list(self, worker: "Worker", listing: _Listing) -> None:
        before = self._listed.get(worker.id, _NOWHERE)
        if listing == before:
            return
        self._listed[worker.id] = listing
        _move(self._copies, worker, before.copies, listing.copies)
        _move(self._with_slot, worker, before.with_slot, listing.with_slot)
        _move(self._with_room, worker, before.with_room, listing.with_room)

    def copies(self, runner: str) -> "Iterator[Worker]":
        return iter(self._copies.get(runner, ()))

    def candidates(self, model: ModelRef, preferred: "list[Worker]", *, loads: bool) -> "Iterator[list[Worker]]":
        """Those that could run it, in groups: first a few likely ones, then, for who asks on, all others.

        ``preferred`` are looked at if they have a slot for it. Without ``loads``: only those that have the model.
        """
        with_slot = self._with_slot.get(model.runner, _NOBODY)
        copies = self._copies.get(model.runner, _NOBODY)
        rooms = [pool for kind, pool in self._with_room.items() if loads and can_run(model, kind)]
        with_prefix = [worker for worker in preferred if worker in with_slot]
        first = {worker.id: worker for worker in with_prefix[:MOST_BY_PREFIX]}
        first.update({worker.id: worker for worker in with_slot.draw(MOST_OF_A_POOL)})
        for pool in rooms:
            drawn = pool.draw(MOST_LOOKED_AT - len(first))
            first.update({worker.id: worker for worker in drawn if worker not in copies})
        yield list(first.values())
        rest = {worker.id: worker for worker in with_slot}
        rest.update({worker.id: worker for pool in rooms for worker in pool if worker not in copies})
        others = [worker for worker in rest.values() if worker.id not in first]
        for start in range(0, len(others), MOST_LOOKED_AT):
            yield others[start : start + MOST_LOOKED_AT]


def _listing(worker: "Worker") -> _Listing:
    if not worker.takes_work:
        return _NOWHERE
    copies = frozenset(worker.models_at_hand())
    if worker.is_full or worker.reserved_for is not None:
        return _Listing(copies)
    with_slot = frozenset(runner for runner in copies if worker.has_slot_for(runner))
    return _Listing(copies, with_slot, frozenset([worker.kind]) if worker.has_room else frozenset())


def _move(pools: dict[Key, Pool], worker: "Worker", before: frozenset[Key], after: frozenset[Key]) -> None:
    for key in before - after:
        pools[key].discard(worker)
        if not pools[key]:
            del pools[key]
    for key in after - before:
        pools[key].add(worker)
