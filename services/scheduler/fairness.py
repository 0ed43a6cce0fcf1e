"""A queue shared by organizations, then by the flows of each (its keys or users), then first in, first out. Pure."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from typing import Generic, NamedTuple, TypeVar

from services.scheduler.accounts import Account, Key, Member, Turns

T = TypeVar("T")
Requests = OrderedDict[str, T]


@dataclass
class Tenant(Generic[T]):
    """What one organization has waiting in one queue."""

    flows: Turns[Requests[T]] = field(default_factory=Turns)
    size: int = 0


class Stream(NamedTuple, Generic[T]):
    """Items of one who shares, in their order."""

    key: Key
    account: Account
    items: Iterator[T]


class FairQueue(Generic[T]):
    """``root`` keeps the accounts of all queues that share them."""

    def __init__(self, root: Account) -> None:
        self._root = root
        self._tenants: Turns[Tenant[T]] = Turns()
        self._size = 0
        root.orders.append(self._tenants)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        """In no order."""
        for tenant in self._tenants:
            for flow in tenant.queue.flows:
                yield from flow.queue.values()

    def close(self) -> None:
        """When it is empty and nobody will put anything into it."""
        self._root.orders.remove(self._tenants)

    def put(self, item: T, request_id: str, flow: Account, *, first: bool = False) -> None:
        """``flow``: the account of its flow, a child of its organization's."""
        organization = flow.parent
        assert organization is not None
        organization.come(self._tenants)
        tenant = self._tenants.get(organization.name)
        if tenant is None:
            tenant = self._tenants.join(organization, Tenant())
            organization.orders.append(tenant.queue.flows)
        flow.come(tenant.queue.flows)
        member = tenant.queue.flows.get(flow.name) or tenant.queue.flows.join(flow, OrderedDict())
        member.queue[request_id] = item
        if first:
            member.queue.move_to_end(request_id, last=False)
        tenant.queue.size += 1
        self._size += 1

    def take(self, request_id: str, flow: Account) -> None:
        """What is empty then goes with it."""
        tenant, member = self._find(flow)
        del member.queue[request_id]
        if not member.queue:
            tenant.queue.flows.leave(flow.name)
        flow.go()
        tenant.queue.size -= 1
        if not tenant.queue.size:
            self._tenants.leave(tenant.account.name)
            tenant.account.orders.remove(tenant.queue.flows)
        tenant.account.go()
        self._size -= 1

    def least(self) -> float:
        """The counter of the organization whose turn it is."""
        return _first(self._tenants).account.counter

    def head(self) -> T:
        return next(iter(_first(_first(self._tenants).queue.flows).queue.values()))

    def position(self, flow: Account) -> int:
        """Of the last one in this flow; 1 is next. Nearly: as if all organizations stood level."""
        tenant, member = self._find(flow)
        own_turns = min(tenant.queue.size, len(member.queue) * len(tenant.queue.flows))
        return min(self._size, own_turns * len(self._tenants))

    def streams(self, cost: Callable[[T], float]) -> Iterator[Stream[T]]:
        """Of each organization, what waits in the order that ``in_turn`` tells."""
        for key, tenant in self._tenants.in_order():
            flows = (
                Stream(flow_key, flow.account, iter(flow.queue.values()))
                for flow_key, flow in tenant.queue.flows.in_order()
            )
            yield Stream(key, tenant.account, in_turn(flows, cost))

    def _find(self, flow: Account) -> tuple[Member[Tenant[T]], Member[Requests[T]]]:
        assert flow.parent is not None
        tenant = self._tenants.get(flow.parent.name)
        assert tenant is not None
        member = tenant.queue.flows.get(flow.name)
        assert member is not None
        return tenant, member


def in_turn(streams: Iterator[Stream[T]], cost: Callable[[T], float]) -> Iterator[T]:
    """The order to be expected if nobody came and all cost what is estimated. Lazy; ``streams`` by their keys."""
    heap: list[tuple[float, bool, int, Stream[T]]] = []
    following = next(streams, None)
    number = 0
    while heap or following is not None:
        while following is not None and (not heap or following.key[0] < heap[0][0]):
            counter = following.account.counter
            heappush(heap, (counter, counter > following.key[0], number, following))
            number += 1
            following = next(streams, None)
        counter, _, own_number, stream = heap[0]
        item = next(stream.items, None)
        if item is None:
            heappop(heap)
        else:
            yield item
            heapreplace(heap, (counter + cost(item) / stream.account.weight, True, own_number, stream))


def _first(turns: Turns[T]) -> Member[T]:
    member = turns.first()
    assert member is not None, "an empty queue is forgotten"
    return member
