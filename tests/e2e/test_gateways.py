"""Several gateways: a request is cancelled or read on through any of them, and all are replaced under load."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import redis.asyncio as redis

from libs.common.token_log.store import card_key, log_key, task_key
from tests.e2e.test_chat import nothing_runs
from tests.fixtures.suite import Suite, a_plain_client, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

API = "/api/v1/inference"
TOKENS = 60
WORDS = " ".join(f"w{number}" for number in range(TOKENS))
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
LOOPS = 3


@pytest.fixture
async def gateways(suite: Suite, admin: httpx.AsyncClient) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Three of them; the last two may be killed."""
    async with AsyncExitStack() as stack:
        clients = [admin]
        for name in ("gateway-2", "gateway-3"):
            address, process = suite.add_gateway(name)
            stack.callback(suite.processes.pop, name)
            stack.push_async_callback(asyncio.to_thread, process.stop)
            http = httpx.AsyncClient(base_url=address, headers=admin.headers, timeout=60)
            clients.append(await stack.enter_async_context(http))
        await suite.start("gateway-2", "gateway-3")
        yield clients


async def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in answer.aiter_lines()]


async def test_a_cancelled_request_leaves_nothing(
    suite: Suite, gateways: list[httpx.AsyncClient], redis_url: str
) -> None:
    _, second, third = gateways
    for through in (*gateways, None):
        await is_cancelled(suite, redis_url, second, through)
    cancelled = (await third.get(f"{API}/requests", params={"status": "cancelled", "limit": 4})).json()["items"]
    assert len(cancelled) == 4


async def is_cancelled(
    suite: Suite, redis_url: str, http: httpx.AsyncClient, through: httpx.AsyncClient | None
) -> None:
    """``through``: whom its owner tells; None: its client goes away."""
    body = {"model": "echo-20", "prompt": "to be cancelled", "options": {"num_predict": 400}}
    async with http.stream("POST", f"{API}/generate", json=body) as answer:
        request_id = answer.headers["x-request-id"]
        if through is not None:
            assert (await through.delete(f"{API}/requests/{request_id}")).status_code == 204
            assert (await lines_of(answer))[-1]["error"]["code"] == "request_cancelled"
    await eventually(lambda: nothing_runs(suite), "its slot is free")
    async with redis.Redis.from_url(redis_url) as client:

        async def is_forgotten() -> bool:
            keys = [of(request_id) for of in (log_key, card_key, task_key)]
            return not await client.exists(*keys)

        await eventually(is_forgotten, "Redis keeps nothing of it")

    async def is_noted() -> bool:
        return bool((await http.get(f"{API}/requests/{request_id}")).json().get("status") == "cancelled")

    await eventually(is_noted, "the journal has it")


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat", {"model": "echo-10"}),
    "thinking": ("chat", {"model": "echo-think-10", "think": True}),
    "tools": ("chat", {"model": "echo-think-tools-2", "tools": TOOLS}),
    "schema": ("chat", {"model": "echo-10", "format": "json"}),
    "logprobs": ("chat", {"model": "echo-10", "logprobs": True, "top_logprobs": 2}),
}


async def test_every_kind_of_answer_is_read_on_when_its_gateway_is_killed(
    suite: Suite, admin: httpx.AsyncClient, gateways: list[httpx.AsyncClient]
) -> None:
    """Nobody who reads on is cancelled because of the one who read first."""
    process, begun = suite.processes["gateway-3"], asyncio.Barrier(len(KINDS) + 1)

    async def broken(kind: str) -> tuple[str, list[dict[str, Any]]]:
        path, more = KINDS[kind]
        body = {"messages": [{"role": "user", "content": kind}], "options": {"num_predict": TOKENS}, **more}
        lines: list[dict[str, Any]] = []
        async with gateways[2].stream("POST", f"{API}/{path}", json=body) as answer:
            try:
                async for line in answer.aiter_lines():
                    lines.append(json.loads(line))
                    if len(lines) == 1:
                        await begun.wait()
            except httpx.HTTPError:
                pass
            return answer.headers["x-request-id"], lines

    async def kill() -> None:
        await begun.wait()
        await asyncio.to_thread(process.kill)

    killing = asyncio.create_task(kill())
    found = await asyncio.gather(*map(broken, KINDS))
    await killing

    async def read_on(request_id: str, seq: int) -> list[dict[str, Any]]:
        async with admin.stream("GET", f"{API}/requests/{request_id}/stream", params={"after": seq}) as rest:
            return await lines_of(rest)

    # At once: what has ended is soon forgotten.
    rests = await asyncio.gather(*(read_on(request_id, lines[-1]["seq"]) for request_id, lines in found))
    for kind, (_, lines), more in zip(KINDS, found, rests, strict=True):
        assert not lines[-1]["done"], kind
        assert [line["seq"] for line in more] == list(range(lines[-1]["seq"] + 1, more[-1]["seq"] + 1)), kind
        assert "error" not in more[-1], kind
        assert more[-1]["done"], kind
        messages = [line["message"] for line in lines]
        text = "".join(each["content"] for each in messages) + "".join(line["text"] for line in more)
        thinking = "".join(each.get("thinking", "") for each in [*messages, *more])
        match kind:
            case "thinking":
                assert thinking.split() == [f"t{number}" for number in range(8)]
            case "tools":
                calls = [call for each in [*messages, *more] for call in each.get("tool_calls", [])]
                assert [call["function"]["name"] for call in calls] == ["look"]
            case "schema":
                assert isinstance(json.loads(text), dict)
            case "logprobs":
                probabilities = [entry for line in [*lines, *more] for entry in line.get("logprobs", [])]
                assert "".join(entry["token"] for entry in probabilities) == text
                assert all(len(entry["top_logprobs"]) == 2 for entry in probabilities)
            case _:
                assert text.split() == WORDS.split()


@asynccontextmanager
async def streams_without_end(suite: Suite, headers: httpx.Headers) -> AsyncIterator[list[str]]:
    """Clients that ask again and again; what went wrong."""
    wrong: list[str] = []
    stop = asyncio.Event()

    async def ask() -> None:
        body = {"model": "echo-20", "prompt": "again", "options": {"num_predict": 30}}
        while not stop.is_set():
            try:
                async with a_plain_client(suite.url, timeout=60) as http:
                    lines = (await http.post("/api/generate", json=body, headers=headers)).text.splitlines()
                text = "".join(json.loads(line).get("response", line) for line in lines)
                if text.split() != WORDS.split()[:30]:
                    wrong.append(text)
            except httpx.HTTPError as error:
                wrong.append(repr(error))

    async def all_run() -> bool:
        return await suite.metric("gateway", "gateway_streams_active") >= LOOPS

    asking = [asyncio.create_task(ask()) for _ in range(LOOPS)]
    try:
        await eventually(all_run, "the streams run, and their caller is known", 30)
        yield wrong
    finally:
        stop.set()
        await asyncio.gather(*asking)


async def test_a_rolling_restart_of_everything_breaks_no_stream(suite: Suite, admin: httpx.AsyncClient) -> None:
    """Of all five, one process at a time. Before the scheduler or the gateway ends, there is one in its place."""
    successors = {"scheduler": "stand-by", "gateway": "successor"}
    for name, successor in successors.items():
        process = suite.add(name, successor)
        own = {name: value for name, value in process.environment.items() if name.endswith("_OPS_PORT")}
        process.environment = {**suite.processes[name].environment, **own}
    try:
        async with streams_without_end(suite, admin.headers) as wrong:
            for name in ("auth", "registry", "scheduler", "worker-0", "worker-1", "gateway"):
                old = suite.processes[name]
                ending = old.popen
                if name in successors:
                    await suite.start(successors[name])
                    suite.processes[name] = suite.processes.pop(successors[name])
                await asyncio.to_thread(old.stop)
                assert ending is not None
                assert ending.returncode == 0, name
                if name not in successors:
                    await suite.start(name)
                assert wrong == [], name
    finally:
        for successor in successors.values():
            if successor in suite.processes:
                await asyncio.to_thread(suite.processes.pop(successor).stop)
    assert wrong == []
