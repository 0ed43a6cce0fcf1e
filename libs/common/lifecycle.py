"""One life for every service: start in order, be ready when really ready, drain and close in reverse order.

``run(service)`` opens settings, telemetry, Postgres (and migrates), Redis, the bus, the service's context,
its HTTP servers, its handlers and its background loops, in this order, on one ``AsyncExitStack``. SIGTERM and
SIGINT unwind it: take no new work, let running work finish (which still hears events for every replica), close.
An exception in any task ends the process, so that the supervisor starts a clean one.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import redis.asyncio as redis
import structlog
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from libs.common import outbox, runtime_config
from libs.common.bus.base import Bus, Handlers
from libs.common.bus.rabbit import RabbitBus
from libs.common.database import Database
from libs.common.migrations import migrate
from libs.common.redis_client import open_redis
from libs.common.runtime_config import RuntimeConfig
from libs.common.settings import (
    PostgresSettings,
    RabbitSettings,
    RedisSettings,
    ServiceSettings,
    TelemetrySettings,
    load,
)
from libs.common.tasks import Tasks
from libs.common.telemetry import open_telemetry
from libs.common.web import HttpServer, create_ops_app

S = TypeVar("S", bound=ServiceSettings)
C = TypeVar("C")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Runtime:
    """What ``run`` opens for a service. ``db`` and ``redis`` raise if the service did not ask for them."""

    instance: str
    bus: Bus
    tasks: Tasks
    config: RuntimeConfig[Any]
    postgres: Database | None
    redis_client: "redis.Redis | None"
    redis_settings: RedisSettings | None

    @property
    def db(self) -> Database:
        assert self.postgres is not None
        return self.postgres

    @property
    def redis(self) -> "redis.Redis":
        assert self.redis_client is not None
        return self.redis_client


@dataclass(frozen=True)
class Service(Generic[S, C]):
    """A service as a value: what it needs and what it offers."""

    name: str
    settings: type[S]
    open_context: Callable[[S, Runtime], AbstractAsyncContextManager[C]]
    handlers: Handlers
    router: APIRouter | None = None
    """Routes on the ops port, beside health and metrics."""

    public_app: Callable[[C], tuple[ASGIApp, str, int]] | None = None
    """A second HTTP server: the application, its host and its port."""

    shares_port: Callable[[C], bool] = field(default=lambda _: False)
    """Whether that server takes a port over from a process that still runs."""

    background: tuple[Callable[[C], Awaitable[None]], ...] = ()
    """Loops that run as long as the service does."""

    ready: Callable[[C], str | None] = field(default=lambda _: None)
    """Why the service is not ready, or None."""

    drain: Callable[[C, float], Awaitable[None]] | None = None
    """Called at SIGTERM before anything is closed, with the seconds it may take."""

    uses_postgres: bool = False
    uses_redis: bool = False


@asynccontextmanager
async def open_runtime(service: Service[S, C], settings: S) -> AsyncIterator[Runtime]:
    async with AsyncExitStack() as stack:
        stack.enter_context(
            open_telemetry(service.name, settings.instance, settings.log_level, load(TelemetrySettings))
        )
        tasks = Tasks()
        stack.push_async_callback(tasks.cancel_all)
        database = None
        if service.uses_postgres:
            postgres_settings = load(PostgresSettings)
            await migrate(service.name, postgres_settings)
            database = Database(postgres_settings, f"{service.name}-{settings.instance}")
            await database.open()
            stack.push_async_callback(database.close)
        redis_settings = load(RedisSettings) if service.uses_redis else None
        redis_client = await stack.enter_async_context(open_redis(redis_settings)) if redis_settings else None
        bus = await stack.enter_async_context(RabbitBus.open(load(RabbitSettings), service.name, settings.instance))
        config = RuntimeConfig(settings)
        yield Runtime(settings.instance, bus, tasks, config, database, redis_client, redis_settings)


@asynccontextmanager
async def running(service: Service[S, C], settings: S) -> AsyncIterator[tuple[Runtime, C]]:
    """The whole service, up and consuming; leaving the block drains and closes it. ``run`` and tests share it."""
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(service, settings))
        context = await stack.enter_async_context(service.open_context(settings, runtime))
        stack.callback(runtime.bus.stop_hearing)
        started = False

        def not_ready() -> str | None:
            if not started:
                return "starting or draining"
            if not runtime.bus.connected:
                return "not connected to RabbitMQ"
            return service.ready(context)

        ops_app: FastAPI = create_ops_app(service.name, context, runtime.postgres, not_ready, service.router)
        await stack.enter_async_context(
            HttpServer.running(ops_app, settings.ops_host, settings.ops_port, runtime.tasks.start)
        )
        if runtime.postgres is not None:
            runtime.tasks.start(outbox.relay(runtime.db, runtime.bus, service.name), name=f"{service.name}.outbox")
        for loop in service.background:
            runtime.tasks.start(_forever(loop, context), name=f"{service.name}.{getattr(loop, '__name__', 'loop')}")
        await runtime.bus.subscribe(runtime_config.handlers_of(service.name), runtime.config)
        await runtime_config.learn(runtime.config, runtime.bus)
        await runtime.bus.subscribe(service.handlers, context)
        runtime.tasks.start(runtime_config.stay_true(runtime.config, runtime.bus), name=f"{service.name}.config")
        if service.public_app is not None:
            app, host, port = service.public_app(context)
            await stack.enter_async_context(
                HttpServer.running(
                    app,
                    host,
                    port,
                    runtime.tasks.start,
                    settings.drain_seconds,
                    share_port=service.shares_port(context),
                )
            )
        started = True
        log.info("ready", service=service.name, instance=settings.instance)
        yield runtime, context
        # Not in a finally: a process that failed ends at once, so that others take over.
        started = False
        log.info("draining", service=service.name)
        until = time.monotonic() + settings.drain_seconds
        await runtime.bus.stop_consuming()
        if service.drain is not None:
            await service.drain(context, settings.drain_seconds)
        await runtime.bus.drain(max(0.0, until - time.monotonic()))


async def _forever(loop: Callable[[C], Awaitable[None]], context: C) -> None:
    await loop(context)
    raise RuntimeError(f"background loop {getattr(loop, '__name__', loop)} ended")


async def serve(service: Service[S, C]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(service, load(service.settings)) as (runtime, _):
        stopping = asyncio.create_task(stop.wait(), name="wait for a signal")
        await asyncio.wait((stopping, runtime.tasks.failed), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if runtime.tasks.failed.done():
            runtime.tasks.failed.result()


def run(service: Service[S, C]) -> None:
    """Run until SIGTERM or SIGINT. Uses uvloop."""
    import uvloop  # noqa: PLC0415  only a process of ours needs it, not a test that imports this module

    uvloop.run(serve(service))
