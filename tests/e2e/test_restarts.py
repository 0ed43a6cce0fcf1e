"""Scheduler, auth, registry and the brokers are killed or restarted under running streams: none of them notices."""

import asyncio

import pytest

from tests.e2e.test_worker_dies import a_body, stream, whole_answer
from tests.fixtures.infra import EmbeddedServer
from tests.fixtures.suite import Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]


async def running_streams(suite: Suite, count: int, prompt: str) -> list["asyncio.Task[str]"]:
    """Each has its first token: what no worker was given yet would wait for a scheduler that is to be stopped."""
    begun = asyncio.Semaphore(0)

    async def answer(number: int) -> str:
        words = []
        async for line in stream(suite, a_body(f"{prompt} {number}", "echo-20")):
            words.append(str(line["response"]))
            if len(words) == 1:
                begun.release()
        return "".join(words)

    streams = [asyncio.create_task(answer(number)) for number in range(count)]
    async with asyncio.timeout(60):
        for _ in streams:
            await begun.acquire()
    return streams


@pytest.mark.parametrize("service", ["scheduler", "auth", "registry"])
async def test_a_killed_service_loses_no_request(suite: Suite, service: str) -> None:
    prompt = f"{service} dies"
    expected = [await whole_answer(suite, a_body(f"{prompt} {number}", model="echo")) for number in range(12)]
    streams = await running_streams(suite, 12, prompt)
    process = suite.processes[service]
    process.kill()
    process.start()
    await eventually(process.ready, f"{service} is back", 60)
    assert await asyncio.gather(*streams) == expected


async def test_requests_accepted_while_the_scheduler_is_away_are_served(suite: Suite) -> None:
    await whole_answer(suite, a_body("warm", model="echo"))
    process = suite.processes["scheduler"]
    process.kill()
    streams = [asyncio.create_task(whole_answer(suite, a_body(f"patience {number}"))) for number in range(4)]

    async def all_are_accepted() -> bool:
        return await suite.metric("gateway", "gateway_streams_active") >= len(streams)

    await eventually(all_are_accepted, "the requests are accepted")
    process.start()
    texts = await asyncio.gather(*streams)
    assert {len(text.split()) for text in texts} == {60}


@pytest.mark.parametrize("name", ["gateway", "worker-0", "scheduler"])
async def test_sigterm_lets_streams_finish(suite: Suite, name: str) -> None:
    prompt = f"{name} is asked to stop"
    expected = [await whole_answer(suite, a_body(f"{prompt} {number}", model="echo")) for number in range(6)]
    streams = await running_streams(suite, 6, prompt)
    process = suite.processes[name]
    await asyncio.to_thread(process.stop)
    assert process.popen is not None
    assert process.popen.returncode == 0
    assert await asyncio.gather(*streams) == expected
    await suite.start(name)


async def test_a_stand_by_scheduler_takes_over_at_once(suite: Suite) -> None:
    stand_by = suite.add("scheduler", "stand-by")
    try:
        await suite.start("stand-by")
        suite.processes["scheduler"].kill()
        assert len((await whole_answer(suite, a_body("taken over", model="echo"))).split()) == 60
        await suite.start("scheduler")
    finally:
        stand_by.stop()
        del suite.processes["stand-by"]
    assert len((await whole_answer(suite, a_body("given back", model="echo"))).split()) == 60


async def test_rabbitmq_restarts_under_running_streams(suite: Suite, embedded_rabbitmq: EmbeddedServer) -> None:
    """The workers go on; all leases come back and are granted again under a higher epoch."""
    await survives(suite, "rabbitmq restarts", embedded_rabbitmq)


async def test_redis_restarts_and_forgets_everything(suite: Suite, embedded_redis: EmbeddedServer) -> None:
    """The workers write their logs again."""
    await survives(suite, "redis restarts", embedded_redis)


async def test_postgres_restarts(suite: Suite, embedded_postgres: EmbeddedServer) -> None:
    """Nothing on the way of a request needs it."""
    await survives(suite, "postgres restarts", embedded_postgres)


async def survives(suite: Suite, prompt: str, server: EmbeddedServer) -> None:
    expected = [await whole_answer(suite, a_body(f"{prompt} {number}", model="echo")) for number in range(6)]
    streams = await running_streams(suite, 6, prompt)
    await asyncio.to_thread(server.restart)
    assert await asyncio.gather(*streams) == expected
    assert len((await whole_answer(suite, a_body("afterwards", model="echo"))).split()) == 60
