"""Whose turn it is: virtual token counters (Sheng et al., OSDI'24), in two levels. Pure.

An account counts the tokens served to an organization, or to one of its flows, divided by its weight. Of those who
wait, the one with the least counter is next; who comes back from idleness is lifted to the others: nobody saves up.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any, Final, Generic, TypeVar

INPUT_COST: Final = 1.0
OUTPUT_COST: Final = 2.0
"""Of one token. Tokens that are generated take an engine longer than those it reads at once."""

LEAST_COST: Final = 1.0
"""Of a grant whose size nobody knows: each moves the turn on."""

HEAP_SLACK: Final = 16


def cost_of(prompt_tokens: int, completion_tokens: int) -> float:
    return INPUT_COST * prompt_tokens + OUTPUT_COST * completion_tokens


class Account:
    """One who shares, and those who share what it gets: a class, its organizations, their flows."""

    def __init__(self, name: str, parent: "Account | None" = None) -> None:
        self.name = name
        self.parent = parent
        self.counter = 0.0
        self.weight = 1.0
        self.waiting = 0
        self.metered = 0
        """Requests whose tokens are still being charged to it."""

        self.touched = True
        self.children: dict[str, Account] = {}
        self.orders: list[Turns[Any]] = []
        """Wherever some of its children wait."""

        self.last_left: str | None = None
        """Of the children that waited."""

    def child(self, name: str) -> "Account":
        if (account := self.children.get(name)) is None:
            account = self.children[name] = Account(name, self)
        account.touched = True
        return account

    def charge(self, cost: float) -> None:
        """A negative cost gives back what was charged too much."""
        self.set(self.counter + cost / self.weight)

    def set(self, counter: float) -> None:
        lowered = counter < self.counter
        self.touched, self.counter = True, counter
        if lowered and self.parent is not None:
            for order in self.parent.orders:
                order.lowered(self.name)

    def come(self, order: "Turns[Any]") -> None:
        """One more of its requests waits, in this order among others."""
        assert self.parent is not None
        if not self.waiting:
            self.counter = max(self.counter, self.parent.level(order))
        self.waiting += 1
        self.touched = True

    def go(self) -> None:
        assert self.parent is not None
        self.waiting -= 1
        if not self.waiting:
            self.parent.last_left = self.name

    def level(self, order: "Turns[Any]") -> float:
        """Where a child starts that was idle: with the least of those that wait there, else with the last that left."""
        rivals = [order] if order else self.orders
        leasts = [first.account.counter for rival in rivals if (first := rival.first()) is not None]
        if leasts:
            return min(leasts)
        last = self.children.get(self.last_left) if self.last_left is not None else None
        return last.counter if last is not None else 0.0

    def forget_idle(self) -> None:
        """Forget the children that nothing was heard of since the last call."""
        for name, child in list(self.children.items()):
            child.forget_idle()
            if not (child.touched or child.waiting or child.metered) and name != self.last_left:
                del self.children[name]
            child.touched = False


T = TypeVar("T")
Key = tuple[float, bool, int, str]
"""Counter, whether its turn has been on before, ticket, name."""


class Member(Generic[T]):
    """Who waits in an order, and what it has there."""

    __slots__ = ("account", "key", "queue")

    def __init__(self, account: Account, queue: T) -> None:
        self.account = account
        self.queue = queue
        self.key: Key = (0.0, False, 0, "")


class Turns(Generic[T]):
    """Those who wait in one place, the least counter first; of equals who has just come, else in their order.

    Who comes back from idleness is lifted to the others, so that it is always one of equals: it gets the next slot.

    Counters rise while their owners wait. A key that is too low comes up too early and is put right then; one that is
    too high would come up too late, so that whoever lowers a counter has to tell.
    """

    def __init__(self) -> None:
        self._members: dict[str, Member[T]] = {}
        self._heap: list[Key] = []
        self._ticket = count()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member[T]]:
        return iter(self._members.values())

    def get(self, name: str) -> Member[T] | None:
        return self._members.get(name)

    def join(self, account: Account, queue: T) -> Member[T]:
        member = self._members[account.name] = Member(account, queue)
        self._push(member, has_come=True)
        return member

    def leave(self, name: str) -> None:
        del self._members[name]
        self._clean()

    def lowered(self, name: str) -> None:
        if (member := self._members.get(name)) is not None:
            self._push(member)

    def first(self) -> Member[T] | None:
        heap = self._heap
        while heap:
            key = heap[0]
            member = self._members.get(key[-1])
            if member is None or member.key is not key:
                heappop(heap)
            elif member.account.counter <= key[0]:
                return member
            else:
                member.key = self._key(member.account)
                heapreplace(heap, member.key)
        return None

    def in_order(self) -> Iterator[tuple[Key, Member[T]]]:
        """By keys, which are never too high. Lazy; only while nothing changes."""
        front = [(key, 0) for key in self._heap[:1]]
        while front:
            key, at = heappop(front)
            for child in range(2 * at + 1, min(2 * at + 3, len(self._heap))):
                heappush(front, (self._heap[child], child))
            member = self._members.get(key[-1])
            if member is not None and member.key is key:
                yield key, member

    def _key(self, account: Account, *, has_come: bool = False) -> Key:
        return account.counter, not has_come, next(self._ticket), account.name

    def _push(self, member: Member[T], *, has_come: bool = False) -> None:
        member.key = self._key(member.account, has_come=has_come)
        heappush(self._heap, member.key)
        self._clean()

    def _clean(self) -> None:
        """Once most keys are of those who have left, or have other keys now."""
        if len(self._heap) > 2 * len(self._members) + HEAP_SLACK:
            self._heap = [member.key for member in self._members.values()]
            heapify(self._heap)
