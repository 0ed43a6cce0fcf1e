"""What the gateway's doors may use."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import redis.asyncio as redis

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.inference import InferenceTask, ModelRef, Priority
from libs.common.contracts.tokens import Frame
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from libs.common.limits.store import LimitStore, State
from libs.common.runtime_config import RuntimeConfig
from libs.common.sealing import Ring
from libs.common.tasks import Tasks
from libs.common.token_log.follower import LogFollower
from libs.common.token_log.store import TokenLogStore
from services.gateway import inference, system_config
from services.gateway.cluster import Cluster
from services.gateway.identity import Identities
from services.gateway.limits import Limiter
from services.gateway.models import Models
from services.gateway.operations import Operations
from services.gateway.registry_http import RegistryHttp, open_registry_http
from services.gateway.responses.memory import Turns
from services.gateway.settings import Settings
from services.gateway.transfers import Transfers


class FrameStream(Protocol):
    """One answer as it comes; the last frame has ``end``. Raises the ``ServiceError`` of a request that failed."""

    @property
    def request_id(self) -> str: ...

    @property
    def limits(self) -> Sequence[State]:
        """Of its caller, as they were when it came, the nearest first: for the answer to tell of."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What the answer tells of its place in the queue; complete with the first frame."""

    def __aiter__(self) -> AsyncIterator[Frame]: ...

    async def aclose(self) -> None:
        """Always close it: before the end, that cancels the request."""


class StartInference(Protocol):
    """``inference.start``, or what a test puts in its place."""

    async def __call__(
        self,
        ctx: "Context",
        identity: Identity,
        model: ModelRef,
        task: InferenceTask,
        *,
        priority: Priority = "interactive",
        deadline_seconds: float | None = None,
        request_id: str | None = None,
    ) -> FrameStream: ...


@dataclass(frozen=True)
class Context:
    config: RuntimeConfig[Settings]
    bus: Bus
    tasks: Tasks
    db: Database
    redis: "redis.Redis"
    follower: LogFollower
    token_log: TokenLogStore
    identities: Identities
    models: Models
    operations: Operations
    registry_http: RegistryHttp
    limits: Limiter
    sealing: Ring
    transfers: Transfers = field(default_factory=Transfers)
    cluster: Cluster = field(default_factory=Cluster)
    turns: Turns = field(default_factory=Turns)
    start_inference: StartInference = inference.start
    answering: set[inference.InferenceStream] = field(default_factory=set)
    """What callers are being answered with now."""

    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def settings(self) -> Settings:
        """As they are now: some are changed while we run."""
        return self.config.current


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    assert runtime.redis_settings is not None
    # Before the first caller comes: whom it lets in may have been changed.
    runtime.config.hear(await system_config.in_force(runtime.db))
    async with (
        LogFollower.open(runtime.redis, runtime.redis_settings, runtime.instance, runtime.tasks.start) as follower,
        open_registry_http(settings) as registry_http,
    ):
        yield Context(
            config=runtime.config,
            bus=runtime.bus,
            tasks=runtime.tasks,
            db=runtime.db,
            redis=runtime.redis,
            follower=follower,
            token_log=TokenLogStore(runtime.redis, runtime.redis_settings),
            identities=Identities(runtime.bus, runtime.tasks),
            models=Models(runtime.bus, runtime.tasks),
            operations=Operations(
                runtime.bus, runtime.tasks, settings.operation_silence_seconds, settings.transfers_per_caller
            ),
            registry_http=registry_http,
            limits=Limiter(runtime.bus, LimitStore(runtime.redis)),
            sealing=settings.sealing(),
        )
