"""Who waits takes the slot of somebody less urgent, whose stream pauses and goes on: no token lost, none twice."""

import asyncio
import json
from dataclasses import dataclass

import httpx
import pytest

from tests.fixtures.suite import Suite, eventually

pytestmark = [pytest.mark.e2e]

GENERATE = "/api/v1/inference/generate"
MODEL = "echo-30"
TOKENS = 240
SLOTS = 8
"""Of one model, on two workers."""

EXPECTED = " ".join(f"w{i}" for i in range(TOKENS))


@dataclass
class Stream:
    """What a client has got so far."""

    request_id: str = ""
    text: str = ""


async def follow(http: httpx.AsyncClient, priority: str, tokens: int) -> Stream:
    stream = Stream()
    body = {"model": MODEL, "prompt": "p", "options": {"num_predict": tokens}, "priority": priority}
    async with http.stream("POST", GENERATE, json=body, timeout=90) as answer:
        stream.request_id = answer.headers["X-Request-ID"]
        async for line in answer.aiter_lines():
            said = json.loads(line)
            assert "error" not in said, said
            stream.text += said["response"]
    return stream


async def ends_of(http: httpx.AsyncClient, request_id: str) -> list[str]:
    found: list[str] = []

    async def is_known() -> bool:
        answer = await http.get(f"/api/v1/inference/requests/{request_id}")
        told = answer.json()
        found[:] = [attempt["ended"] for attempt in told.get("attempts", ())]
        return bool(found) and None not in found and len(found) == told["attempt_count"]

    await eventually(is_known, "its attempts are in the journal")
    return found


async def test_interactive_requests_take_the_slots_of_batch_ones_which_go_on_intact(
    suite: Suite, admin: httpx.AsyncClient
) -> None:
    async def all_run() -> bool:
        running = [await suite.metric(name, "worker_requests_running") for name in ("worker-0", "worker-1")]
        return sum(running) == SLOTS

    batch = [asyncio.create_task(follow(admin, "batch", TOKENS)) for _ in range(SLOTS)]
    await eventually(all_run, "every slot is taken")
    quick: list[Stream] = []
    for _ in range(3):
        quick += await asyncio.gather(*(follow(admin, "interactive", 5) for _ in range(2)))
    assert {stream.text for stream in quick} == {"w0 w1 w2 w3 w4"}
    streams = await asyncio.gather(*batch)
    assert {stream.text for stream in streams} == {EXPECTED}
    ends = [await ends_of(admin, stream.request_id) for stream in streams]
    assert sum(each.count("preempted") for each in ends) >= 2, "those that waited did so for a slot, not for an end"
    assert {each[-1] for each in ends} == {"done"}
