"""What the worker's handlers and loops may use."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import redis.asyncio as redis
from cachetools import TTLCache

from libs.common.bus.base import Bus
from libs.common.lifecycle import Runtime
from libs.common.token_log.store import TokenLogStore
from libs.common.token_log.writer import LogWriter
from services.worker.attempt import Attempt
from services.worker.blobs.cache import BlobCache
from services.worker.context_policy import ContextPolicy
from services.worker.engines import EngineConfig, Engines
from services.worker.engines.base import Upstream
from services.worker.loaded_models import Limits, LoadedModels
from services.worker.replicas import Replicas, Reporter
from services.worker.room import Bounds
from services.worker.settings import Settings


@dataclass(frozen=True)
class Context:
    settings: Settings
    instance: str
    bus: Bus
    redis: "redis.Redis"
    log_writer: LogWriter
    engines: Engines
    models: LoadedModels
    blobs: BlobCache
    reporter: Reporter
    replicas: Replicas
    changed: asyncio.Event
    """Set when the next heartbeat should not wait."""

    marks: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    """Of the events that the next heartbeat answers."""

    running: dict[str, Attempt] = field(default_factory=dict)
    cancelled: TTLCache[str, None] = field(default_factory=lambda: TTLCache(maxsize=100_000, ttl=60))
    """Cancels that may have overtaken their request."""

    draining: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    assert runtime.redis_settings is not None
    changed = asyncio.Event()
    engines = Engines(_engine_config(settings))
    reporter = Reporter(settings.node, runtime.instance, settings.peers_url)
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(30, connect=5), trust_env=False) as http,
        aclosing(_blob_cache(settings, runtime.bus, http)) as blobs,
        aclosing(LoadedModels(engines, blobs, _limits(settings), changed.set)) as models,
    ):
        yield Context(
            settings=settings,
            instance=runtime.instance,
            bus=runtime.bus,
            redis=runtime.redis,
            log_writer=LogWriter(TokenLogStore(runtime.redis, runtime.redis_settings)),
            engines=engines,
            models=models,
            blobs=blobs,
            reporter=reporter,
            replicas=Replicas(reporter, blobs, runtime.bus, models.blobs_in_use),
            changed=changed,
        )


def _blob_cache(settings: Settings, bus: Bus, http: httpx.AsyncClient) -> BlobCache:
    return BlobCache(
        settings.cache_dir,
        settings.node,
        bus,
        http,
        settings.blob_token.get_secret_value(),
        link=settings.link_blobs,
    )


def _engine_config(settings: Settings) -> EngineConfig:
    upstreams = tuple(
        Upstream(
            upstream.pattern,
            upstream.base_url,
            upstream.api_key.get_secret_value(),
            upstream.model,
            upstream.capabilities,
        )
        for upstream in settings.upstreams
    )
    return EngineConfig(
        settings.threads, settings.load_timeout_seconds, settings.engine_silence_seconds, settings.echo, upstreams
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        room=Bounds(settings.max_loaded_models, settings.memory_bytes),
        slots_per_model=settings.slots_per_model,
        context=ContextPolicy(default=settings.context_length, largest=settings.longest_context),
        keep_alive_seconds=settings.keep_alive_seconds,
    )
