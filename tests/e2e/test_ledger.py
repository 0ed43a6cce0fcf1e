"""While one process after the other is killed and events come twice, every request is billed once.

``LEDGER_REQUESTS=10000`` for a longer run; over when so many were sent and every process was killed at least once.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from pydantic import SecretStr

from libs.common.bus.base import Bus, Handlers
from libs.common.bus.rabbit import RabbitBus
from libs.common.contracts.worker import InferenceFinished
from libs.common.ledger_check import SETTLED_SECONDS, differences, ledger
from libs.common.settings import RabbitSettings
from tests.fixtures.database import new_database
from tests.fixtures.infra import provided
from tests.fixtures.suite import Suite, a_suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

REQUESTS = int(os.environ.get("LEDGER_REQUESTS", "300"))
CLIENTS = 8

Tokens = tuple[int, int]


@pytest.fixture
async def suite(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, passwords: dict[str, str]
) -> AsyncIterator[Suite]:
    with provided(["rabbitmq", "redis"]) as servers, new_database(postgres_url, passwords) as urls:
        suite = a_suite(
            tmp_path_factory.mktemp("ledger"),
            servers.urls["rabbitmq"],
            servers.urls["redis"],
            urls,
            REDIS_FINISHED_LOG_TTL_SECONDS="60",
        )
        async with suite.running():
            yield suite


@asynccontextmanager
async def repeating(suite: Suite, chance: random.Random) -> AsyncIterator[Bus]:
    """Somebody who tells a third of all ends once more."""
    handlers, repeated = Handlers("repeater"), set[str]()

    @handlers.on(InferenceFinished)
    async def repeat(event: InferenceFinished, bus: Bus) -> None:
        if event.request_id not in repeated and chance.random() < 1 / 3:
            repeated.add(event.request_id)
            await bus.publish(event)

    async with RabbitBus.open(RabbitSettings(url=SecretStr(suite.shared["RABBITMQ_URL"])), "repeater", "r1") as bus:
        await bus.subscribe(handlers, bus)
        yield bus
        await bus.stop_consuming()


@dataclass
class Seen:
    """What clients know: of complete answers what they cost, of others only that they were begun."""

    sent: int = 0
    complete: dict[str, Tokens] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    killed_all: bool = False

    @property
    def enough(self) -> bool:
        return self.sent >= REQUESTS and self.killed_all

    async def client(self, suite: Suite, number: int) -> None:
        async with httpx.AsyncClient(base_url=suite.url, timeout=60) as http:
            while not self.enough:
                self.sent += 1
                try:
                    await self._one(http, number, gives_up=self.sent % 7 == 0)
                except httpx.TransportError:
                    await asyncio.sleep(0.2)  # the gateway was killed

    async def _one(self, http: httpx.AsyncClient, number: int, *, gives_up: bool) -> None:
        prompt = " ".join(["word"] * (1 + self.sent % 9))
        body = {"model": "echo-100", "prompt": prompt, "options": {"num_predict": 5 + number * 3}}
        async with http.stream("POST", "/api/generate", json=body) as answer:
            if answer.status_code != 200:
                await asyncio.sleep(0.1)  # a refusal: the next one may have more luck
                return
            request_id = answer.headers["x-request-id"]
            self.begun.add(request_id)
            async for line in answer.aiter_lines():
                if gives_up:
                    return
                if (last := json.loads(line)).get("done"):
                    self.complete[request_id] = (last["prompt_eval_count"], last["eval_count"])

    async def kill(self, suite: Suite, chance: random.Random) -> None:
        while not self.enough:
            for name in chance.sample(sorted(suite.processes), len(suite.processes)):
                await asyncio.sleep(chance.random())  # at any moment
                process = suite.processes[name]
                process.kill()
                process.start()
                await eventually(process.ready, f"{name} is back", 60)
            self.killed_all = True


@pytest.mark.timeout(300 + REQUESTS)
async def test_each_request_is_billed_once_as_its_client_saw_it(suite: Suite) -> None:
    chance, seen = random.Random(4), Seen()
    async with repeating(suite, chance) as bus:
        async with asyncio.TaskGroup() as group:
            group.create_task(seen.kill(suite, chance))
            for number in range(CLIENTS):
                group.create_task(seen.client(suite, number))

        async def all_is_told() -> bool:
            return seen.begun <= {entry.request_id async for entry in ledger(bus, 0)}

        await eventually(all_is_told, "all that was begun is in the ledger", 90)

        async def they_agree() -> bool:
            """Also on what has only just ended."""
            return [line async for line in differences(bus, 0, time.time() + SETTLED_SECONDS)] == []

        await eventually(they_agree, "ledger and journal agree", 30)
        entries = {entry.request_id: entry async for entry in ledger(bus, 0)}
    billed = {entry.request_id: (entry.prompt_tokens, entry.completion_tokens) for entry in entries.values()}
    assert {request_id: billed[request_id] for request_id in seen.complete} == seen.complete
    assert {entries[request_id].outcome for request_id in seen.complete} == {"done"}
    assert len(seen.complete) > REQUESTS / 2
