"""Workers on a real Redis with the echo engine: what becomes of a grant, and what other workers hear of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio as redis

from libs.common.bus.base import Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.contracts.worker import InferenceFinished, RunInference
from libs.common.lifecycle import Runtime
from libs.common.redis_client import open_redis
from libs.common.settings import RedisSettings
from libs.common.tasks import Tasks
from libs.common.token_log.store import TokenLogStore
from services.worker import inference
from services.worker.app import write_token_log
from services.worker.context import Context, open_context
from services.worker.handlers import handlers
from services.worker.settings import Settings
from tests.fixtures.builders import a_model, a_request
from tests.fixtures.suite import eventually

ECHO = a_model(name="echo-91")

OpenWorker = Callable[[str], Awaitable[Context]]


class ADelivery:
    message_id, redelivered, attempt = "", False, 1

    def __init__(self) -> None:
        self.answer = ""

    async def ack(self) -> None:
        self.answer = "ack"

    async def requeue(self) -> None:
        self.answer = "requeue"

    async def reject(self, reason: str) -> None:
        self.answer = reason


@pytest.fixture
def redis_settings(redis_url: str) -> RedisSettings:
    return RedisSettings(url=redis_url, finished_log_ttl_seconds=5)


@pytest.fixture
async def client(redis_settings: RedisSettings) -> AsyncIterator[redis.Redis]:
    async with open_redis(redis_settings) as client:
        yield client


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@asynccontextmanager
async def a_worker(
    name: str, broker: MemoryBroker, client: redis.Redis, redis_settings: RedisSettings, directory: Path
) -> AsyncIterator[Context]:
    tasks, settings = Tasks(), Settings(node=name, cache_dir=directory / name, echo=True)
    async with MemoryBus.open(broker, "worker", name) as bus:
        runtime = Runtime(name, bus, tasks, None, client, redis_settings)
        async with open_context(settings, runtime) as ctx:
            await bus.subscribe(handlers, ctx)
            tasks.start(write_token_log(ctx), "token log")
            try:
                yield ctx
            finally:
                await tasks.cancel_all()


@pytest.fixture
async def workers(
    broker: MemoryBroker, client: redis.Redis, redis_settings: RedisSettings, tmp_path: Path
) -> AsyncIterator[tuple[Context, Context]]:
    async with (
        a_worker("west", broker, client, redis_settings, tmp_path) as west,
        a_worker("east", broker, client, redis_settings, tmp_path) as east,
    ):
        yield west, east


@pytest.fixture
async def finished(broker: MemoryBroker) -> AsyncIterator["asyncio.Queue[InferenceFinished]"]:
    """What a scheduler hears."""
    heard: asyncio.Queue[InferenceFinished] = asyncio.Queue()
    listening = Handlers("scheduler")

    @listening.on(InferenceFinished)
    async def hear(event: InferenceFinished, _context: object) -> None:
        heard.put_nowait(event)

    async with MemoryBus.open(broker, "scheduler", "scheduler") as bus:
        await bus.subscribe(listening, None)
        yield heard


def a_grant(model: ModelRef = ECHO, **task: object) -> RunInference:
    asked = InferenceTask.model_validate({"kind": "generate", "prompt": "a"} | task)
    request = a_request(model=model, kind="generate", task_json=asked.model_dump_json())
    return RunInference(request=request, epoch=1, granted_at=request.accepted_at)


async def run(ctx: Context, grant: RunInference) -> str:
    """What the broker is answered."""
    delivery = ADelivery()
    await asyncio.wait_for(inference.take(ctx, grant, delivery), 10)
    return delivery.answer


def expiries(ctx: Context) -> list[float | None]:
    return [model.expires_at for model in ctx.models.snapshot()]


async def test_what_a_request_says_of_keep_alive_reaches_the_other_worker(workers: tuple[Context, Context]) -> None:
    west, east = workers
    for ctx in workers:
        assert await run(ctx, a_grant()) == "ack"
    await run(west, a_grant(keep_alive_seconds=-1.0))
    await west.bus.drain(5)
    await east.bus.drain(5)
    assert (expiries(west), expiries(east)) == ([None], [None])
    await run(east, a_grant(keep_alive_seconds=0.0))
    await west.bus.drain(5)
    assert (expiries(west), expiries(east)) == ([], [])


async def test_a_cancel_as_early_as_can_be_ends_the_request(
    workers: tuple[Context, Context],
    finished: "asyncio.Queue[InferenceFinished]",
    client: redis.Redis,
    redis_settings: RedisSettings,
) -> None:
    worker, grant = workers[0], a_grant()
    request_id = grant.request.request_id
    taking = asyncio.create_task(run(worker, grant))
    while request_id not in worker.running:  # noqa: ASYNC110  the very next step after it is known
        await asyncio.sleep(0)
    inference.cancel(worker, request_id)
    assert await taking == "ack"
    assert (await asyncio.wait_for(finished.get(), 10)).outcome == "cancelled"
    [entry] = await TokenLogStore(client, redis_settings).read(request_id)
    assert entry.frame is not None
    assert entry.frame.end is not None
    assert entry.frame.end.error is not None
    assert entry.frame.end.error.code == "request_cancelled"
    assert not worker.running


async def test_a_worker_that_stops_while_it_loads_gives_the_request_back(
    workers: tuple[Context, Context], tmp_path: Path
) -> None:
    worker, weights = workers[0], "sha256:" + "0" * 64  # there is no registry to fetch them from
    running = asyncio.create_task(run(worker, a_grant(a_model(engine="llama_cpp", weights=weights))))

    async def is_fetching() -> bool:
        return any((tmp_path / "west").glob("*.lock"))

    await eventually(is_fetching, "it has begun to load")
    await worker.models.aclose()
    assert await running == "requeue"


async def test_an_attempt_that_was_overtaken_says_nothing_more(workers: tuple[Context, Context]) -> None:
    worker, first = workers[0], a_grant(options={"num_predict": 20})
    overtaken = asyncio.create_task(run(worker, first))
    while first.request.request_id not in worker.running:  # noqa: ASYNC110  the very next step after it is known
        await asyncio.sleep(0)
    assert await run(worker, first.model_copy(update={"epoch": 2})) == "ack"
    assert await overtaken == "ack", "it would come back to be granted a third time"
