"""What the gateway's doors may use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import redis.asyncio as redis

from libs.common.bus.base import Bus
from libs.common.contracts.auth import Identity
from libs.common.contracts.inference import InferenceTask, ModelRef, Priority
from libs.common.contracts.tokens import Frame
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from libs.common.tasks import Tasks
from libs.common.token_log.follower import LogFollower
from services.gateway import inference
from services.gateway.cluster import Cluster
from services.gateway.identity import Identities
from services.gateway.models import Models
from services.gateway.operations import Operations
from services.gateway.registry_http import RegistryHttp, open_registry_http
from services.gateway.settings import Settings


class FrameStream(Protocol):
    """One answer as it comes; the last frame has ``end``. Raises the ``ServiceError`` of a request that failed."""

    @property
    def request_id(self) -> str: ...

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
    ) -> FrameStream: ...


@dataclass(frozen=True)
class Context:
    settings: Settings
    bus: Bus
    tasks: Tasks
    db: Database
    redis: "redis.Redis"
    follower: LogFollower
    identities: Identities
    models: Models
    operations: Operations
    registry_http: RegistryHttp
    cluster: Cluster = field(default_factory=Cluster)
    start_inference: StartInference = inference.start
    draining: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    assert runtime.redis_settings is not None
    async with (
        LogFollower.open(runtime.redis, runtime.redis_settings, runtime.instance, runtime.tasks.start) as follower,
        open_registry_http(settings) as registry_http,
    ):
        yield Context(
            settings=settings,
            bus=runtime.bus,
            tasks=runtime.tasks,
            db=runtime.db,
            redis=runtime.redis,
            follower=follower,
            identities=Identities(runtime.bus, runtime.tasks),
            models=Models(runtime.bus, runtime.tasks),
            operations=Operations(runtime.bus, runtime.tasks, settings.operation_silence_seconds),
            registry_http=registry_http,
        )
