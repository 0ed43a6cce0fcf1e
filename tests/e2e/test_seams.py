"""Every kind of answer at once, on one worker, which is killed, or frozen and woken: each goes on elsewhere, exactly.

The engine numbers its words, and nothing is known of where each answer is cut: thinking, speaking, between two calls.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
from pydantic import SecretStr

from libs.common.bus.base import Bus
from libs.common.bus.rabbit import RabbitBus
from libs.common.ledger_check import ledger
from libs.common.settings import RabbitSettings
from tests.e2e.test_requests_api import becomes, own_node
from tests.e2e.test_worker_dies import revive
from tests.fixtures.suite import Process, Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

SAYS: Final = {"role": "user", "content": "three words here"}
TOOLS: Final = [{"type": "function", "function": {"name": f"tool_{number}"}} for number in range(80)]
SCHEMA: Final = {"type": "object", "additionalProperties": {"type": "integer"}}


def speaking(**more: object) -> dict[str, object]:
    """As long as it takes to strike and to be noticed: eight seconds at 20 tokens a second."""
    return {"model": "echo-20", "options": {"num_predict": 160, "seed": 1}, **more}


def thinking(model: str, count: int, **more: object) -> dict[str, object]:
    return {"model": f"echo-think-tools-{model}", "messages": [SAYS], "options": {"num_predict": count}, **more}


KINDS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "chat": ("chat", speaking(messages=[SAYS])),
    "generate": ("generate", speaking(prompt="three words here")),
    "stop string": ("chat", speaking(messages=[SAYS], options={"num_predict": 160, "stop": ["7 w148 w"]})),
    "JSON schema": ("generate", speaking(prompt="three words here", format=SCHEMA)),
    "logprobs": ("chat", thinking("10", 80, think=False, logprobs=True, top_logprobs=2)),
    "thinking": ("chat", thinking("2", 12, think=True)),
    "after thinking": ("chat", thinking("10", 80, think=True, logprobs=True)),
    "tools": ("chat", thinking("10", 80, think=False, tools=TOOLS)),
    "thinking, tools": ("chat", thinking("2", 12, think=True, tools=TOOLS)),
}


@dataclass
class Stream:
    """An answer as its client sees it, who is the first admin."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    request_id: str = ""

    async def read(self, admin: httpx.AsyncClient, route: str, body: dict[str, object]) -> None:
        async with admin.stream("POST", f"/api/{route}", json=body, timeout=60) as answer:
            self.request_id = answer.headers["x-request-id"]
            async for line in answer.aiter_lines():
                self.lines.append(json.loads(line))

    def told(self) -> dict[str, object]:
        """All that must be as in an undisturbed answer; of calls not their ids, which belong to the request."""
        messages = [line.get("message") or {"content": line.get("response", ""), **line} for line in self.lines]
        last = self.lines[-1]
        return {
            "text": "".join(message["content"] for message in messages),
            "thinking": "".join(message.get("thinking", "") for message in messages),
            "calls": [call["function"] for message in messages for call in message.get("tool_calls", ())],
            "logprobs": [entry for line in self.lines for entry in line.get("logprobs", ())],
            **{name: last.get(name) for name in ("error", "done_reason", "prompt_eval_count", "eval_count")},
        }

    @property
    def is_over(self) -> bool:
        return bool(self.lines) and bool(self.lines[-1].get("done") or self.lines[-1].get("error"))


async def undisturbed(admin: httpx.AsyncClient, route: str, body: dict[str, object]) -> dict[str, object]:
    """The same words as fast as can be."""
    stream = Stream()
    await stream.read(admin, route, body | {"model": str(body["model"]).rstrip("0123456789-")})
    return stream.told()


@asynccontextmanager
async def alone(suite: Suite, admin: httpx.AsyncClient) -> AsyncIterator[tuple[Process, Process]]:
    """The worker that gets everything, and the one that gets nothing until it is woken."""
    busy, idle = suite.workers()[:2]
    idle.signal(signal.SIGSTOP)
    try:

        async def is_given_up() -> bool:
            return bool((await own_node(admin))["workers"] == 1)

        await eventually(is_given_up, "the frozen worker is not counted on")
        yield busy, idle
    finally:
        idle.signal(signal.SIGCONT)


async def all_speak(streams: dict[str, Stream], more_than: dict[str, int]) -> None:
    async def is_so() -> bool:
        return all(stream.is_over or len(stream.lines) > more_than[name] for name, stream in streams.items())

    await eventually(is_so, "every stream goes on", 30)


async def strike(suite: Suite, admin: httpx.AsyncClient, fault: signal.Signals) -> dict[str, Stream]:
    """All kinds at once; the fault hits the worker that makes all of them. Read to the end."""
    streams = {name: Stream() for name in KINDS}
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as reading:
        busy, idle = await stack.enter_async_context(alone(suite, admin))
        for name, stream in streams.items():
            reading.create_task(stream.read(admin, *KINDS[name]))
        await all_speak(streams, dict.fromkeys(streams, 2))
        idle.signal(signal.SIGCONT)
        struck = {name: len(stream.lines) for name, stream in streams.items()}
        assert not any(stream.is_over for stream in streams.values())
        busy.signal(fault)
        if fault is signal.SIGSTOP:
            await all_speak(streams, struck)
            busy.signal(signal.SIGCONT)  # a zombie: it goes on from where it was, while another does
        else:
            await revive(busy)
    return streams


@asynccontextmanager
async def a_bus(suite: Suite) -> AsyncIterator[Bus]:
    settings = RabbitSettings(url=SecretStr(suite.shared["RABBITMQ_URL"]))
    async with RabbitBus.open(settings, "seams", "seams") as bus:
        yield bus


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen and woken"])
async def test_every_kind_of_answer_goes_on_and_is_billed_once(
    suite: Suite, admin: httpx.AsyncClient, fault: signal.Signals
) -> None:
    began = time.time()
    expected = {name: await undisturbed(admin, *asked) for name, asked in KINDS.items()}
    streams = await strike(suite, admin, fault)
    for name, stream in streams.items():
        assert stream.told() == expected[name], name
    async with a_bus(suite) as bus:

        async def all_are_billed() -> bool:
            return {stream.request_id for stream in streams.values()} <= {
                entry.request_id async for entry in ledger(bus, began)
            }

        await eventually(all_are_billed, "the books are written")
        entries = {entry.request_id: entry async for entry in ledger(bus, began)}
    for name, stream in streams.items():
        entry, found = entries[stream.request_id], await becomes(admin, stream.request_id, "done")
        answer = expected[name]
        billed = (entry.outcome, entry.prompt_tokens, entry.completion_tokens)
        assert billed == ("done", answer["prompt_eval_count"], answer["eval_count"]), name
        assert found["completion_tokens"] == answer["eval_count"]
        assert found["attempt_count"] >= 2, name


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_embeddings_and_loads_granted_to_a_dead_worker_are_made_elsewhere(
    suite: Suite, fault: signal.Signals
) -> None:
    """Nobody knows yet that it is gone, so it is given some of them."""
    inputs = [f"text {number}" for number in range(3)]
    async with httpx.AsyncClient(base_url=suite.url, timeout=30) as http:
        body = {"model": "echo", "input": inputs}
        expected = (await http.post("/api/embed", json=body)).json()["embeddings"]
        dead = suite.workers()[0]
        dead.signal(fault)
        try:
            answers = await asyncio.gather(
                *(http.post("/api/embed", json=body) for _ in range(6)),
                *(http.post("/api/generate", json={"model": "echo", "stream": False}) for _ in range(2)),
            )
        finally:
            await revive(dead)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert [answer.json()["embeddings"] for answer in answers[:6]] == [expected] * 6
    assert {answer.json()["done_reason"] for answer in answers[6:]} == {"load"}
