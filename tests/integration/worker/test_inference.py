"""Workers on a real Redis with the echo engine: what becomes of a grant, and what other workers hear of it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import redis.asyncio as redis

from libs.common.bus.base import Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.contracts.scheduler.inference import LOSSES, AttemptRecord, RequestInference
from libs.common.contracts.tokens import StreamEnd
from libs.common.contracts.worker import InferenceFinished, RunInference
from libs.common.lifecycle import Runtime
from libs.common.redis_client import open_redis
from libs.common.runtime_config import RuntimeConfig
from libs.common.settings import RedisSettings
from libs.common.tasks import Tasks
from libs.common.token_log.store import TokenLogStore, log_key
from services.worker import attempt, inference
from services.worker.app import drain, write_token_log
from services.worker.blobs.files import BlobFiles
from services.worker.context import Context, open_context
from services.worker.engines import echo_tools
from services.worker.engines.llama_process import CHILD_PROGRAM
from services.worker.handlers import handlers
from services.worker.settings import Settings, UpstreamSettings
from tests.fixtures.batches import ADelivery
from tests.fixtures.builders import a_model, a_request
from tests.fixtures.mock_upstream import create_app, running_upstream
from tests.fixtures.suite import eventually
from tests.fixtures.tiny_gguf import CONTEXT_LENGTH, write_tiny_gguf

ECHO = a_model(name="echo-91")

OpenWorker = Callable[[str], Awaitable[Context]]


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
    name: str,
    broker: MemoryBroker,
    client: redis.Redis,
    redis_settings: RedisSettings,
    directory: Path,
    *upstreams: UpstreamSettings,
) -> AsyncIterator[Context]:
    """Only in the west an engine has to hurry."""
    silence = 2 if name == "west" else 60
    settings = Settings(
        node=name, cache_dir=directory / name, echo=True, engine_silence_seconds=silence, upstreams=upstreams
    )
    tasks = Tasks()
    async with MemoryBus.open(broker, "worker", name) as bus:
        runtime = Runtime(name, bus, tasks, RuntimeConfig(settings), None, client, redis_settings)
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
    granted = AttemptRecord(epoch=1, worker_id="west", granted_at=1.0)
    request = a_request(model=model, kind="generate", task_json=asked.model_dump_json(), attempts=(granted,))
    return RunInference(request=request, epoch=1, granted_at=request.accepted_at)


async def run(ctx: Context, grant: RunInference, seconds: float = 10) -> str:
    """What the broker is answered."""
    delivery = ADelivery()
    await asyncio.wait_for(inference.take(ctx, grant, delivery), seconds)
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


@pytest.fixture
async def returned(broker: MemoryBroker) -> AsyncIterator["asyncio.Queue[RequestInference]"]:
    """What a scheduler is handed back."""
    heard: asyncio.Queue[RequestInference] = asyncio.Queue()
    listening = Handlers("scheduler")

    @listening.on(RequestInference, single_active=True)
    async def hear(request: RequestInference, _context: object) -> None:
        heard.put_nowait(request)

    async with MemoryBus.open(broker, "scheduler", "scheduler-2") as bus:
        await bus.subscribe(listening, None)
        yield heard


async def handed_back(returned: "asyncio.Queue[RequestInference]", grant: RunInference) -> str | None:
    """Why, its worker having said so."""
    request = await asyncio.wait_for(returned.get(), 10)
    assert request.request_id == grant.request.request_id
    assert request.task_json == grant.request.task_json
    return request.attempts[-1].ended


async def test_a_worker_that_stops_while_it_loads_hands_the_request_back(
    workers: tuple[Context, Context], tmp_path: Path, returned: "asyncio.Queue[RequestInference]"
) -> None:
    worker, weights = workers[0], "sha256:" + "0" * 64  # there is no registry to fetch them from
    grant = a_grant(a_model(engine="llama_cpp", weights=weights))
    running = asyncio.create_task(run(worker, grant))

    async def is_fetching() -> bool:
        return any((tmp_path / "west").glob("*.lock"))

    await eventually(is_fetching, "it has begun to load")
    await worker.models.aclose()
    assert await running == "ack"
    assert await handed_back(returned, grant) == "drained"


async def words_in_log(ctx: Context, grant: RunInference) -> list[int]:
    """Their token ids."""
    store = TokenLogStore(ctx.redis, RedisSettings(url="redis://unused"))
    entries = await store.read(grant.request.request_id)
    return [token for entry in entries if entry.frame is not None for token in entry.frame.token_ids]


async def test_what_a_dead_engine_has_made_is_in_the_log_when_its_request_is_handed_back(
    workers: tuple[Context, Context], returned: "asyncio.Queue[RequestInference]"
) -> None:
    worker, grant = workers[0], a_grant(a_model(name="echo-fail-after-7"))
    assert await run(worker, grant) == "ack"
    assert await handed_back(returned, grant) == "engine_failed"
    assert await words_in_log(worker, grant) == list(range(7))


def a_tiny_model(*caches: Path) -> ModelRef:
    """In each of these caches."""
    content = write_tiny_gguf(caches[0].parent / "tiny.gguf").read_bytes()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    for cache in caches:
        cache.mkdir(exist_ok=True)
        BlobFiles.of(cache, digest).blob.write_bytes(content)
    return a_model(name="tiny", engine="llama_cpp", weights=digest, size=len(content), context_length=CONTEXT_LENGTH)


def engines_of_this_process() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if str(CHILD_PROGRAM) in child.cmdline()}


async def test_a_request_whose_engine_hangs_goes_on_elsewhere(
    workers: tuple[Context, Context], returned: "asyncio.Queue[RequestInference]", tmp_path: Path
) -> None:
    here, there = workers
    others = engines_of_this_process()
    grant = a_grant(a_tiny_model(tmp_path / "west", tmp_path / "east"), options={"num_predict": 6000})
    running = asyncio.create_task(run(here, grant, seconds=60))

    async def is_answering() -> bool:
        return await here.redis.xlen(log_key(grant.request.request_id)) > 2

    await eventually(is_answering, "some tokens are out")
    [engine] = engines_of_this_process() - others
    engine.suspend()
    assert await running == "ack"
    assert await handed_back(returned, grant) == "engine_failed"
    assert 0 < len(await words_in_log(here, grant)) < 6000
    assert await run(there, grant.model_copy(update={"epoch": 2}), seconds=60) == "ack"
    assert len(await words_in_log(there, grant)) == 6000


async def test_without_a_broker_the_lease_comes_back_by_itself(workers: tuple[Context, Context]) -> None:
    worker, grant = workers[0], a_grant(a_model(name="echo-fail-after-7"))
    assert await run(worker, grant) == "requeue", "nobody takes what is handed back"


async def test_a_request_is_preempted_once_it_got_on(
    workers: tuple[Context, Context], returned: "asyncio.Queue[RequestInference]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "PROGRESS_SECONDS", 0.2)
    worker, grant = workers[0], a_grant(a_model(name="echo-50"), options={"num_predict": 10_000})
    running = asyncio.create_task(run(worker, grant))

    async def got_on() -> bool:
        inference.preempt(worker, grant.request.request_id, epoch=2)  # of another attempt: none of ours
        inference.preempt(worker, grant.request.request_id, epoch=1)
        return running.done()

    await eventually(got_on, "it is preempted")
    assert await running == "ack"
    assert await handed_back(returned, grant) == "preempted"
    made = await words_in_log(worker, grant)
    assert made == list(range(len(made)))
    assert 1 < len(made) < 10_000


async def test_what_a_worker_has_not_finished_at_the_end_of_its_drain_is_handed_back(
    workers: tuple[Context, Context], returned: "asyncio.Queue[RequestInference]"
) -> None:
    worker, grant = workers[0], a_grant(a_model(name="echo-20"))
    running = asyncio.create_task(run(worker, grant))

    async def is_answering() -> bool:
        return await worker.redis.xlen(log_key(grant.request.request_id)) > 2

    await eventually(is_answering, "some words are out")
    await drain(worker, 0.1)
    assert await running == "ack"
    assert await handed_back(returned, grant) == "drained"
    assert len(await words_in_log(worker, grant)) >= 3


async def test_a_worker_that_drains_hears_cancels(
    workers: tuple[Context, Context], finished: "asyncio.Queue[InferenceFinished]"
) -> None:
    worker, grant = workers[0], a_grant(a_model(name="echo-20"), options={"num_predict": 10_000})
    running = asyncio.create_task(run(worker, grant))

    async def is_answering() -> bool:
        return await worker.redis.xlen(log_key(grant.request.request_id)) > 2

    await eventually(is_answering, "some words are out")
    await worker.bus.stop_consuming()
    draining = asyncio.create_task(drain(worker, 30))
    await workers[1].bus.publish(InferenceCancelled(request_id=grant.request.request_id))
    assert await running == "ack"
    assert (await asyncio.wait_for(finished.get(), 10)).outcome == "cancelled"
    await asyncio.wait_for(draining, 10)


async def test_an_attempt_that_was_overtaken_says_nothing_more(workers: tuple[Context, Context]) -> None:
    worker, first = workers[0], a_grant(options={"num_predict": 20})
    overtaken = asyncio.create_task(run(worker, first))
    while first.request.request_id not in worker.running:  # noqa: ASYNC110  the very next step after it is known
        await asyncio.sleep(0)
    assert await run(worker, first.model_copy(update={"epoch": 2})) == "ack"
    assert await overtaken == "ack", "it would come back to be granted a third time"


async def test_a_cancelled_answer_is_paid_for_as_far_as_it_came(
    workers: tuple[Context, Context], finished: "asyncio.Queue[InferenceFinished]"
) -> None:
    worker, grant = workers[0], a_grant(a_model(name="echo-19"), prompt="three words here")
    taking = asyncio.create_task(run(worker, grant))

    async def is_answering() -> bool:
        return await worker.redis.xlen(log_key(grant.request.request_id)) > 2

    await eventually(is_answering, "some words are out")
    inference.cancel(worker, grant.request.request_id)
    await taking
    event = await asyncio.wait_for(finished.get(), 10)
    assert event.outcome == "cancelled"
    assert event.prompt_tokens == 3
    assert 2 <= event.completion_tokens < 64


@pytest.fixture
async def asking(
    broker: MemoryBroker, client: redis.Redis, redis_settings: RedisSettings, tmp_path: Path
) -> AsyncIterator[Context]:
    """A worker that has an upstream."""
    async with (
        running_upstream(create_app()) as url,
        a_worker(
            "south", broker, client, redis_settings, tmp_path, UpstreamSettings(pattern="*", base_url=url)
        ) as worker,
    ):
        yield worker


async def end_of(ctx: Context, grant: RunInference) -> StreamEnd:
    last = await TokenLogStore(ctx.redis, RedisSettings(url="redis://unused")).last(grant.request.request_id)
    assert last is not None
    assert last.frame is not None
    assert last.frame.end is not None
    return last.frame.end


@pytest.mark.parametrize(
    ("name", "words"), [("down", 0), ("strict", 0), ("broken", 2), ("echo-error", 2), ("nonsense", 2)]
)
async def test_an_upstream_that_fails_is_asked_once_more_and_then_the_request_ends_with_its_reason(
    asking: Context,
    returned: "asyncio.Queue[RequestInference]",
    finished: "asyncio.Queue[InferenceFinished]",
    name: str,
    words: int,
) -> None:
    grant = a_grant(a_model(name=name, engine="openai_http"))
    assert await run(asking, grant) == "ack"
    request = await asyncio.wait_for(returned.get(), 10)
    [first] = request.attempts
    assert first.ended == "upstream_failed"
    assert first.ended not in LOSSES
    second = AttemptRecord(epoch=2, worker_id="south", granted_at=2.0)
    again = RunInference(
        request=request.model_copy(update={"attempts": (first, second)}), epoch=2, granted_at=request.accepted_at
    )
    assert await run(asking, again) == "ack"
    event = await asyncio.wait_for(finished.get(), 10)
    assert (event.outcome, event.error_code, event.completion_tokens) == ("failed", "upstream_failed", words)
    error = (await end_of(asking, again)).error
    assert error is not None
    assert error.message == first.message != ""


async def test_a_call_that_cannot_be_written_ends_its_own_request_and_no_other(
    asking: Context, finished: "asyncio.Queue[InferenceFinished]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo_tools, "_arguments", lambda _function: {"number": 2**64})
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    other = asyncio.create_task(run(asking, a_grant(a_model(name="echo-20"), options={"num_predict": 10})))
    bad = a_grant(a_model(name="echo-tools"), tools=[tool])
    assert await run(asking, bad) == "ack"
    assert await other == "ack"
    ends = [await asyncio.wait_for(finished.get(), 10) for _ in range(2)]
    outcomes = {event.request_id == bad.request.request_id: (event.outcome, event.error_code) for event in ends}
    assert outcomes == {True: ("failed", "internal"), False: ("done", None)}
