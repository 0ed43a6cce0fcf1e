"""What the scheduler's handlers and loops may use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import redis.asyncio as redis
from cachetools import TTLCache

from libs.common.batches import Batches
from libs.common.bus.base import Bus
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from libs.common.limits.store import LimitStore
from libs.common.runtime_config import RuntimeConfig
from libs.common.sealing import Ring
from libs.common.tasks import Tasks
from libs.common.token_log.store import TokenLogStore
from services.scheduler import journal
from services.scheduler.blame import Link
from services.scheduler.breaker import Breaker
from services.scheduler.fleet import Fleet
from services.scheduler.metering import Meters
from services.scheduler.reservation import Reservation
from services.scheduler.settings import Settings
from services.scheduler.throughput import Throughput
from services.scheduler.waiting import Waiting, WaitingSet


@dataclass(frozen=True)
class Context:
    config: RuntimeConfig[Settings]
    bus: Bus
    db: Database
    tasks: Tasks
    redis: "redis.Redis"
    token_log: TokenLogStore
    sealing: Ring
    journal: Batches[InferenceFinished]
    fleet: Fleet = field(default_factory=Fleet)
    waiting: WaitingSet = field(default_factory=WaitingSet)
    newcomers: list[tuple[Waiting, int]] = field(default_factory=list)
    """Not told yet whether they have to wait, each with its position when it came."""

    breaker: Breaker = field(default_factory=Breaker)
    reservation: Reservation = field(default_factory=Reservation)
    granting: dict[str, Waiting] = field(default_factory=dict)
    """Requests taken out of the waiting set whose grant is on its way."""

    cancelled: TTLCache[str, None] = field(default_factory=lambda: TTLCache(maxsize=100_000, ttl=60))
    """Cancels that may have overtaken their request."""

    link: Link = field(default_factory=Link)
    adrift: TTLCache[str, Waiting] = field(default_factory=lambda: TTLCache(maxsize=100_000, ttl=30))
    """Waited here until our connection was lost. The broker gives them to somebody again, perhaps to us."""

    draining: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request could be granted: one came, a slot became free, a worker appeared."""

    preempted: TTLCache[str, str] = field(default_factory=lambda: TTLCache(maxsize=10_000, ttl=2))
    """Who was asked to leave a slot, and for whom; forgotten if it came to nothing."""

    slots_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when requests wait although all has been granted that could be."""

    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request came to us: of all replicas it is we who grant."""

    @property
    def meters(self) -> Meters:
        return self.waiting.meters

    @property
    def throughput(self) -> Throughput:
        return self.fleet.throughput

    @property
    def settings(self) -> Settings:
        """As they are now: some are changed while we run."""
        return self.config.current


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    assert runtime.redis_settings is not None
    yield Context(
        config=runtime.config,
        bus=runtime.bus,
        db=runtime.db,
        tasks=runtime.tasks,
        redis=runtime.redis,
        token_log=TokenLogStore(runtime.redis, runtime.redis_settings),
        sealing=settings.sealing(),
        journal=journal.open_journal(runtime.db, LimitStore(runtime.redis), settings.journal_batch_size),
    )
