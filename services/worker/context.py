"""What the worker's handlers and loops may use."""

import asyncio
from dataclasses import dataclass, field

import redis.asyncio as redis
from cachetools import TTLCache

from libs.common.bus.base import Bus
from libs.common.tasks import Tasks
from libs.common.token_log.writer import LogWriter
from services.worker.engines import Engines
from services.worker.loaded_models import LoadedModels
from services.worker.settings import Settings


@dataclass
class Running:
    """One request this process runs."""

    epoch: int
    model_digest: str
    job: "asyncio.Task[None]"


@dataclass(frozen=True)
class Context:
    settings: Settings
    instance: str
    bus: Bus
    redis: "redis.Redis"
    tasks: Tasks
    log_writer: LogWriter
    engines: Engines
    models: LoadedModels
    changed: asyncio.Event
    """Set when the next heartbeat should not wait."""

    running: dict[str, Running] = field(default_factory=dict)
    cancelled: TTLCache[str, None] = field(default_factory=lambda: TTLCache(maxsize=100_000, ttl=60))
    """Cancels that may have overtaken their request."""

    draining: asyncio.Event = field(default_factory=asyncio.Event)
