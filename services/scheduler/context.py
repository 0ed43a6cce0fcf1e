"""What the scheduler's handlers and loops may use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cachetools import TTLCache

from libs.common.bus.base import Bus
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from libs.common.tasks import Tasks
from libs.common.token_log.store import TokenLogStore
from services.scheduler.fleet import Fleet
from services.scheduler.journal import Journal
from services.scheduler.settings import Settings
from services.scheduler.waiting import WaitingSet


@dataclass(frozen=True)
class Context:
    settings: Settings
    bus: Bus
    db: Database
    tasks: Tasks
    token_log: TokenLogStore
    journal: Journal
    fleet: Fleet = field(default_factory=Fleet)
    waiting: WaitingSet = field(default_factory=WaitingSet)
    granting: set[str] = field(default_factory=set)
    """Requests taken out of the waiting set whose grant is on its way."""

    cancelled: TTLCache[str, None] = field(default_factory=lambda: TTLCache(maxsize=100_000, ttl=60))
    """Cancels that may have overtaken their request."""

    draining: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request could be granted: one came, a slot became free, a worker appeared."""


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    assert runtime.redis_settings is not None
    yield Context(
        settings=settings,
        bus=runtime.bus,
        db=runtime.db,
        tasks=runtime.tasks,
        token_log=TokenLogStore(runtime.redis, runtime.redis_settings),
        journal=Journal(runtime.db, settings.journal_batch_size),
    )
