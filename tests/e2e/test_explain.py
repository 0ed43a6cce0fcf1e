"""Why a request ran where it ran, and a model that cannot be loaded."""

import asyncio
import json
import secrets
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.fixtures.suite import Suite, eventually

pytestmark = pytest.mark.e2e

API = "/api/v1"
GENERATE = f"{API}/inference/generate"


def a_body(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "prompt": "explain", "options": {"num_predict": 60}, **more}


async def details(http: httpx.AsyncClient, request_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"{API}/inference/requests/{request_id}")).json()
    return found


async def becomes(http: httpx.AsyncClient, request_id: str, status: str) -> dict[str, Any]:
    async def is_so() -> bool:
        found = await details(http, request_id)
        return found.get("status") == status and 0 < len(found["attempts"]) == found["attempt_count"]

    await eventually(is_so, f"the request is {status} and explained")
    return await details(http, request_id)


def explained(document: dict[str, Any]) -> str:
    """By the program, from this document alone."""
    ran = subprocess.run(
        [sys.executable, "-m", "services.scheduler.explain"],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout


async def test_a_request_tells_why_it_runs_where_it_runs_and_the_answer_can_be_checked(
    suite: Suite, admin: httpx.AsyncClient
) -> None:
    async with admin.stream("POST", GENERATE, json=a_body("echo-20")) as answer:
        request_id = answer.headers["X-Request-Id"]
        running = await becomes(admin, request_id, "running")
        async for _ in answer.aiter_lines():
            pass
    ended = await becomes(admin, request_id, "done")
    for document in (running, ended):
        (attempt,) = document["attempts"]
        decision = attempt["decision"]
        assert decision["chosen"] == attempt["worker_id"]
        workers = {worker.instance for worker in suite.workers()}
        assert workers <= {candidate["worker_id"] for candidate in decision["candidates"]}
        assert "decided again: the same" in explained(document)
    assert ended["attempts"][0]["ended"] == "done"


async def test_a_model_that_cannot_be_loaded_is_tried_everywhere_then_refused_at_once(
    suite: Suite, admin: httpx.AsyncClient
) -> None:
    model = f"echo-{secrets.token_hex(4)}"
    answer = await admin.post(GENERATE, json=a_body(model, stream=False))
    assert answer.status_code == 500, answer.text
    assert "no echo model is called" in answer.text
    request_id = answer.headers["X-Request-Id"]
    tried = (await becomes(admin, request_id, "failed"))["attempts"]
    assert [attempt["ended"] for attempt in tried] == ["load_failed", "failed"]
    assert len({attempt["worker_id"] for attempt in tried}) == 2, "each able worker was asked"
    assert "no echo model is called" in tried[0]["message"]

    async def is_refused() -> bool:
        answers = await asyncio.gather(*(admin.post(GENERATE, json=a_body(model, stream=False)) for _ in range(3)))
        return all("keeps failing to load" in each.text for each in answers)

    await eventually(is_refused, "nobody tries it any more")
    refused = await admin.post(GENERATE, json=a_body(model, stream=False))
    assert 0 < int(refused.headers["Retry-After"]) <= 600
    assert (await admin.post(GENERATE, json=a_body("echo", stream=False))).status_code == 200
    assert await suite.metric("scheduler", "scheduler_breakers_open") >= 1
