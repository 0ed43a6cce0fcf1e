"""Pieces of work of one kind that this gateway has claimed. One that dies leaves its claims to expire for another."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar
from uuid import uuid4

import structlog
from prometheus_client import Gauge

from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import Unavailable
from services.gateway.context import Context
from services.gateway.durable.attempts import Later
from services.gateway.durable.following import Following

log = structlog.get_logger(__name__)

LEASE_SECONDS: Final = 10.0
KEEP_SECONDS: Final = 1.0


class Work(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def organization_id(self) -> str: ...

    @property
    def request_id(self) -> str:
        """The same for every gateway: who takes the work over follows what runs already."""


W = TypeVar("W", bound=Work)
Outcome = TypeVar("Outcome")


class Kind(Protocol[W, Outcome]):
    """How work of one kind is claimed, done and noted. ``by``: a lane's name, which its claims bear."""

    running: Gauge

    def most(self, ctx: Context) -> int:
        """Pieces that one gateway has under way at once."""

    async def claim(self, tx: Transaction, by: str, seconds: float, not_of: Collection[str]) -> W | None:
        """``not_of``: organizations."""

    async def run(self, ctx: Context, work: W, following: Following) -> Outcome | Later:
        """Raises nothing but what cancels it."""

    async def note(self, ctx: Context, by: str, work: W, outcome: Outcome | Later) -> None:
        """Raises ``Unavailable``: then it is noted again."""

    async def keep(self, tx: Transaction, by: str, works: Sequence[W], seconds: float) -> Collection[str]:
        """The claims last so much longer. Ids of those that nobody wants any more."""


@dataclass
class UnderWay(Generic[W]):
    work: W
    following: Following
    task: "asyncio.Task[None]"


@dataclass
class Lane(Generic[W, Outcome]):
    """``wake``: set when there may be room for more."""

    ctx: Context
    kind: Kind[W, Outcome]
    wake: asyncio.Event
    name: str = field(default_factory=lambda: uuid4().hex)
    """Its claims are in it: one that has expired may be somebody else's by now."""

    under_way: dict[str, UnderWay[W]] = field(default_factory=dict)

    async def look(self) -> None:
        """Begin whatever there is to do. Raises ``Unavailable``."""
        while len(self.under_way) < self.kind.most(self.ctx) and await self._take():
            pass

    async def _take(self) -> bool:
        async with self.ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            work = await self.kind.claim(tx, self.name, LEASE_SECONDS, self._with_enough())
        if work is None or work.id in self.under_way:
            return False  # ours, whose claim has expired while Postgres was away
        following = Following(self.ctx, work.request_id)
        task = self.ctx.tasks.start(self._run(work, following), "a piece of durable work")
        self.under_way[work.id] = UnderWay(work, following, task)
        self.kind.running.set(len(self.under_way))
        return True

    def _with_enough(self) -> list[str]:
        """Organizations that have as many here as are free, so that none of them ever holds up all others."""
        free = self.kind.most(self.ctx) - len(self.under_way)
        held = Counter(each.work.organization_id for each in self.under_way.values())
        return [organization for organization, count in held.items() if count >= free]

    async def _run(self, work: W, following: Following) -> None:
        try:
            outcome = await self.kind.run(self.ctx, work, following)
            await self._note(work, outcome)
        except asyncio.CancelledError:
            if not following.stopped:
                raise
            await self._note(work, Later())
        finally:
            del self.under_way[work.id]
            self.kind.running.set(len(self.under_way))
            self.wake.set()

    async def _note(self, work: W, outcome: Outcome | Later) -> None:
        await until_postgres_is_there(lambda: self.kind.note(self.ctx, self.name, work, outcome))

    async def keep(self) -> None:
        """Ours stay ours; what nobody wants any more is stopped. Raises ``Unavailable``."""
        if not self.under_way:
            return
        works = [each.work for each in self.under_way.values()]
        async with self.ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            stopped = await self.kind.keep(tx, self.name, works, LEASE_SECONDS)
        for work_id, each in self.under_way.items():
            if work_id in stopped and not each.following.stopped:
                each.following.stopped = True
                each.task.cancel()


async def until_postgres_is_there(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Unavailable as error:
            log.warning("durable work waits to be noted", reason=error.message)
            await asyncio.sleep(KEEP_SECONDS)
        else:
            return
