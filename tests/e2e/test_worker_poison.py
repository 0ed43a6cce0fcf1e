"""A request that kills what runs it is given up after some attempts, with a clear error; others do not suffer."""

import asyncio
from typing import Any

import httpx
import pytest

from libs.common.contracts.scheduler.inference import LOSSES
from tests.e2e.test_gateways import lines_of
from tests.e2e.test_preemption import GENERATE, ends_of
from tests.e2e.test_worker_dies import a_body, revive, whole_answer
from tests.fixtures.suite import Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

API = "/api/v1"


def bystanders(suite: Suite, model: str) -> list["asyncio.Task[str]"]:
    return [asyncio.create_task(whole_answer(suite, a_body(f"bystander {number}", model))) for number in range(3)]


def words(count: int) -> str:
    return " ".join(f"w{i}" for i in range(count))


async def test_an_engine_that_dies_each_time_is_given_up(suite: Suite, admin: httpx.AsyncClient) -> None:
    others = bystanders(suite, "echo-50")
    async with admin.stream("POST", GENERATE, json=a_body("poison", "echo-fail-after-3")) as answer:
        request_id = answer.headers["X-Request-Id"]
        *said, last = await lines_of(answer)
    assert last["error"]["code"] == "attempts_exhausted"
    assert "given up" in last["error"]["message"]
    assert await asyncio.gather(*others) == [words(60)] * 3
    ends = await ends_of(admin, request_id)
    assert sum(ended in LOSSES for ended in ends) == 5
    text = "".join(line["response"] for line in said)
    assert text == words(len(text.split()))
    assert len(text.split()) >= 3 * ends.count("engine_failed") > 0, "each attempt went on where the last had died"

    async def is_audited() -> bool:
        found = (await admin.get(f"{API}/system/audit", params={"action": "request.poisoned"})).json()
        return request_id in {event["object"] for event in found["items"]}

    await eventually(is_audited, "operators can see it")


async def test_a_request_that_kills_each_worker_is_given_up_and_takes_nobody_with_it(
    suite: Suite, admin: httpx.AsyncClient
) -> None:
    others = bystanders(suite, "echo-10")
    body = a_body("poison", "echo-1", options={"num_predict": 300})
    async with admin.stream("POST", GENERATE, json=body, timeout=60) as answer:
        lines = asyncio.create_task(lines_of(answer))
        request_id = answer.headers["X-Request-Id"]
        await kill_whoever_runs(suite, admin, request_id, lines)
        last = (await lines)[-1]
    assert last["error"]["code"] == "attempts_exhausted"
    assert sum(ended in LOSSES for ended in await ends_of(admin, request_id)) == 5
    assert await asyncio.gather(*others) == [words(60)] * 3


async def kill_whoever_runs(
    suite: Suite, admin: httpx.AsyncClient, request_id: str, lines: "asyncio.Task[list[dict[str, Any]]]"
) -> None:
    """Each as soon as it has begun, until the request has ended."""
    killed: set[str] = set()
    while not lines.done():
        found = (await admin.get(f"{API}/inference/requests/{request_id}")).json()
        if found.get("status") == "running" and found["worker_id"] and found["worker_id"] not in killed:
            killed.add(found["worker_id"])
            await revive(suite.worker(found["worker_id"]))
        await asyncio.sleep(0.05)
