"""The waiting set: who gets the next slot. Pure: no clock, no I/O.

By class first (interactive, batch, idle), then by fair sharing among organizations, then among the flows of one, then
first in, first out. What each lane could serve is kept apart, so that a lane without a free slot costs nothing.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import count
from typing import NamedTuple

from libs.common.bus.base import Delivery
from libs.common.contracts.inference import Priority
from libs.common.contracts.scheduler.inference import LOSSES, RequestInference
from services.scheduler.accounts import LEAST_COST, Account, cost_of
from services.scheduler.due import Due
from services.scheduler.fairness import FairQueue, in_turn
from services.scheduler.metering import Meters, flow_name

ORDER: tuple[Priority, ...] = ("interactive", "batch", "idle")

ALONE_AFTER_LOSSES = 2
"""A request that lost so many workers may be what kills them: from then on it runs where nobody else does."""


class Lane(NamedTuple):
    """What one worker's slot could serve alike."""

    runner: str
    alone: bool = False
    big: bool = False


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

    position: int | None = None
    """In the queue when it came, 1 being next; None: it did not have to wait."""

    estimated_wait_seconds: float | None = None
    """When it came."""

    big: bool = False
    """There was no room for the context it asks for, where one of usual size would have had a slot."""

    @property
    def losses(self) -> int:
        return sum(attempt.ended in LOSSES for attempt in self.request.attempts)

    @property
    def lane(self) -> Lane:
        return Lane(self.request.model.runner, self.losses >= ALONE_AFTER_LOSSES, self.big)

    def wait_seconds(self, now: float) -> float:
        """How long it waits, or was expected to when it came: whatever is more."""
        return max(now - self.arrived_at, self.estimated_wait_seconds or 0.0)

    @property
    def tokens(self) -> int:
        return self.request.prompt_tokens + self.request.answer_tokens

    async def ack(self) -> None:
        """Nobody has to be given it again."""
        if self.delivery is not None:
            await self.delivery.ack()


def _likely_cost(waiting: Waiting) -> float:
    return max(LEAST_COST, cost_of(waiting.request.prompt_tokens, waiting.request.answer_tokens))


@dataclass(slots=True)
class Place:
    """Where a waiting request is to be found."""

    waiting: Waiting
    lane: Lane
    priority: Priority
    """It competes as."""

    flow: Account | None
    """None: it came back from a lost worker."""


class WaitingSet:
    def __init__(self) -> None:
        self.classes: dict[Priority, Account] = {priority: Account(priority) for priority in ORDER}
        """Who has been served how much, as what."""

        self.meters = Meters(self.classes)
        self._places: dict[str, Place] = {}
        self._lanes: dict[Priority, dict[Lane, FairQueue[Waiting]]] = {priority: {} for priority in ORDER}
        self._returned: dict[Lane, OrderedDict[str, tuple[int, Waiting]]] = {}
        self._ticket = count()
        self._organizations: dict[str, OrderedDict[str, Waiting]] = {}
        self._attempted: dict[str, Waiting] = {}
        self._deadlines = Due()
        self._unaged = Due()
        """Of class batch, by when they were accepted."""

        self._counts: Counter[Priority] = Counter()
        self._tokens: Counter[Priority] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Waiting]:
        """In no order; a snapshot, so that the set may change meanwhile."""
        return iter([place.waiting for place in self._places.values()])

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._places

    def get(self, request_id: str) -> Waiting | None:
        place = self._places.get(request_id)
        return place.waiting if place is not None else None

    def next_one(self, blocked: Collection[Lane]) -> Waiting | None:
        """The one whose turn it is, of those not in a blocked lane."""
        firsts = (next(iter(queue.values())) for lane, queue in self._returned.items() if lane not in blocked)
        if (first := min(firsts, default=None, key=lambda ticketed: ticketed[0])) is not None:
            return first[1]
        for lanes in self._lanes.values():
            queues = [queue for lane, queue in lanes.items() if lane not in blocked]
            if queues:
                return min(queues, key=FairQueue.least).head()
        return None

    def add(self, waiting: Waiting) -> None:
        """At the end of its flow."""
        self.remove(waiting.request.request_id)
        self._put(waiting, waiting.request.priority)

    def put_back(self, waiting: Waiting, *, preempted: bool = False) -> None:
        """What comes back from a lost worker goes before everybody; what was preempted, before the rest of its flow."""
        request = waiting.request
        self.remove(request.request_id)
        if preempted:
            self._put(waiting, request.priority, first=True)
        else:
            place = Place(waiting, waiting.lane, request.priority, None)
            self._returned.setdefault(place.lane, OrderedDict())[request.request_id] = (next(self._ticket), waiting)
            self._note(place)

    def set_aside(self, waiting: Waiting) -> None:
        """It is big: nobody who wants less waits for it."""
        place = self._places[waiting.request.request_id]
        self.remove(waiting.request.request_id)
        waiting.big = True
        if place.flow is None:
            self.put_back(waiting)
        else:
            self._put(waiting, place.priority)

    def remove(self, request_id: str) -> Waiting | None:
        place = self._places.pop(request_id, None)
        if place is None:
            return None
        waiting = place.waiting
        self._counts[waiting.request.priority] -= 1
        self._tokens[waiting.request.priority] -= waiting.tokens
        self._attempted.pop(request_id, None)
        self._deadlines.discard(request_id)
        self._unaged.discard(request_id)
        own = self._organizations[waiting.request.organization_id]
        del own[request_id]
        if not own:
            del self._organizations[waiting.request.organization_id]
        if place.flow is None:
            del self._returned[place.lane][request_id]
            if not self._returned[place.lane]:
                del self._returned[place.lane]
        else:
            queue = self._lanes[place.priority][place.lane]
            queue.take(request_id, place.flow)
            if not queue:
                self._lanes[place.priority].pop(place.lane).close()
        return waiting

    def age(self, accepted_before: float) -> None:
        """From now on those of class batch that were accepted before compete as interactive ones."""
        for request_id in self._unaged.take(accepted_before):
            if (waiting := self.remove(request_id)) is not None:
                self._put(waiting, "interactive")

    def take_expired(self, now: float) -> list[Waiting]:
        """Remove those whose deadline has passed."""
        taken = (self.remove(request_id) for request_id in self._deadlines.take(now))
        return [waiting for waiting in taken if waiting is not None]

    def count(self, priority: Priority) -> int:
        """Of those that were sent as this, aged or not."""
        return self._counts[priority]

    def tokens(self, priority: Priority) -> int:
        return self._tokens[priority]

    def lanes(self) -> set[Lane]:
        return set(self._returned).union(*self._lanes.values())

    def of_lane(self, lane: Lane) -> Iterator[Waiting]:
        """In no order."""
        yield from (waiting for _, waiting in self._returned.get(lane, {}).values())
        for lanes in self._lanes.values():
            yield from lanes.get(lane, ())

    def attempted(self) -> Iterator[Waiting]:
        """Those that have been granted before."""
        return iter(self._attempted.values())

    def waiting_for(self, runner: str) -> int:
        queued = (len(lanes[lane]) for lanes in self._lanes.values() for lane in lanes if lane.runner == runner)
        return sum(queued) + sum(len(queue) for lane, queue in self._returned.items() if lane.runner == runner)

    def position(self, request_id: str) -> int:
        """Of one that has just come, among those of its lane; 1 is next. Nearly, as ``FairQueue`` tells."""
        place = self._places[request_id]
        before = ORDER[: ORDER.index(place.priority)]
        ahead = len(self._returned.get(place.lane, ()))
        if place.flow is None:
            return ahead
        ahead += sum(len(self._lanes[other].get(place.lane, ())) for other in before)
        return ahead + self._lanes[place.priority][place.lane].position(place.flow)

    def in_order(self) -> Iterator[Waiting]:
        """In the order to be expected if nobody else came: lazy, for as many as are wanted."""
        returned = [ticketed for queue in self._returned.values() for ticketed in queue.values()]
        yield from (waiting for _, waiting in sorted(returned, key=lambda ticketed: ticketed[0]))
        for lanes in self._lanes.values():
            streams = [queue.streams(_likely_cost) for queue in lanes.values()]
            yield from in_turn(merge(*streams, key=lambda stream: stream.key), _likely_cost)

    def by_organization(self) -> Iterator[tuple[str, int, Waiting]]:
        """How many of each wait, and the one that came first."""
        for name, waiting in self._organizations.items():
            yield name, len(waiting), next(iter(waiting.values()))

    def account(self, waiting: Waiting) -> Account:
        """Its flow's, in the class as which it competes."""
        place = self._places.get(waiting.request.request_id)
        if place is not None and place.flow is not None:
            return place.flow
        return self._flow(waiting.request, waiting.request.priority)

    def counters(self, waiting: Waiting) -> dict[str, float]:
        """What fair sharing knows of it: its organization's, its flow's, and the least of those it competes with."""
        flow, place = self.account(waiting), self._places.get(waiting.request.request_id)
        assert flow.parent is not None
        counters = {"organization": round(flow.parent.counter, 1), "key": round(flow.counter, 1)}
        if place is not None and place.flow is not None:
            counters["least"] = round(self._lanes[place.priority][place.lane].least(), 1)
        return counters

    def _flow(self, request: RequestInference, priority: Priority) -> Account:
        """What has aged shares with the rest of its flow, instead of standing before or behind all of it."""
        name = flow_name(request)
        if priority != request.priority:
            name += f" {request.priority}"
        organization = self.classes[priority].child(request.organization_id)
        flow = organization.child(name)
        organization.weight, flow.weight = request.organization_weight, request.key_weight
        return flow

    def _put(self, waiting: Waiting, priority: Priority, *, first: bool = False) -> None:
        place = Place(waiting, waiting.lane, priority, self._flow(waiting.request, priority))
        assert place.flow is not None
        queue = self._lanes[priority].get(place.lane)
        if queue is None:
            queue = self._lanes[priority][place.lane] = FairQueue(self.classes[priority])
        queue.put(waiting, waiting.request.request_id, place.flow, first=first)
        if priority == "batch":
            self._unaged.add(waiting.request.request_id, waiting.request.accepted_at)
        self._note(place)

    def _note(self, place: Place) -> None:
        request = place.waiting.request
        self._places[request.request_id] = place
        self._counts[request.priority] += 1
        self._tokens[request.priority] += place.waiting.tokens
        self._organizations.setdefault(request.organization_id, OrderedDict())[request.request_id] = place.waiting
        self._deadlines.add(request.request_id, request.deadline)
        if request.attempts:
            self._attempted[request.request_id] = place.waiting
