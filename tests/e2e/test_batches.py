"""The batch lane end to end: everything is killed meanwhile, and each line is answered once."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.fixtures.suite import Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

CHAT = "/v1/chat/completions"
LINES = 60


@pytest.fixture
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    """With an API key, as programs come."""
    async with suite.admin() as admin:
        created = await admin.post("/api/v1/keys", json={"name": "batches"})
        key = created.json()
    async with httpx.AsyncClient(base_url=suite.url, timeout=30) as client:
        client.headers["Authorization"] = f"Bearer {key['key']}"
        client.headers["X-Key-Id"] = key["id"]
        yield client


def line(custom_id: str, model: str = "echo-50", tokens: int = 40) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"words of {custom_id}"}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "seed": 1, "temperature": 0}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


async def begin(http: httpx.AsyncClient, lines: list[dict[str, Any]]) -> str:
    content = "\n".join(map(json.dumps, lines))
    file = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
    assert file.status_code == 200, file.text
    body = {"input_file_id": file.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
    batch = await http.post("/v1/batches", json=body)
    assert batch.status_code == 200, batch.text
    return str(batch.json()["id"])


async def status_of(http: httpx.AsyncClient, batch: str) -> dict[str, Any]:
    """Nothing while the gateway is away."""
    try:
        answer = await http.get(f"/v1/batches/{batch}")
    except httpx.TransportError:
        return {}
    return dict(answer.json()) if answer.status_code == 200 else {}


async def until(http: httpx.AsyncClient, batch: str, status: str, *, completed: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def is_so() -> bool:
        nonlocal found
        found = await status_of(http, batch)
        return bool(found) and found["status"] == status and found["request_counts"]["completed"] >= completed

    await eventually(is_so, f"the batch is {status}", 60)
    return found


async def answers(http: httpx.AsyncClient, file: str) -> dict[str, dict[str, Any]]:
    text = (await http.get(f"/v1/files/{file}/content")).text
    parsed = [json.loads(each) for each in text.splitlines()]
    assert len({each["custom_id"] for each in parsed}) == len(parsed)
    return {each["custom_id"]: each for each in parsed}


def journal(suite: Suite, requests: list[str], key: str) -> list[tuple[str, str, int]]:
    """What the key's requests came to."""
    with psycopg.connect(suite.postgres_urls["scheduler"]) as connection:
        connection.execute("select set_config('ollamamax.organization', '*', true)")
        rows = connection.execute(
            """
            select request_id, outcome, completion_tokens from scheduler.inference_requests
            where key_id = %s or request_id = any(%s)
            """,
            [key, requests],
        )
        return rows.fetchall()


async def test_a_batch_outlives_everything_and_no_line_is_answered_twice(suite: Suite, http: httpx.AsyncClient) -> None:
    lines = [line(f"line-{number}") for number in range(LINES)]
    batch = await begin(http, lines)
    await until(http, batch, "in_progress", completed=4)
    victims = [suite.processes[name] for name in ("gateway", "scheduler", "worker-0")]
    for process in victims:
        process.kill()
    for process in victims:
        process.start()
    for process in victims:
        await eventually(process.ready, f"{process.service} is back", 60)
    done = await until(http, batch, "completed")
    assert done["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert done["error_file_id"] is None
    found = await answers(http, done["output_file_id"])
    assert list(found) == [each["custom_id"] for each in lines]

    plain = [line(f"line-{number}", "echo") for number in range(0, LINES, 10)]
    again = await until(http, await begin(http, plain), "completed")
    for custom_id, expected in (await answers(http, again["output_file_id"])).items():
        shown = found[custom_id]["response"]["body"]
        assert shown["choices"] == expected["response"]["body"]["choices"]
        assert shown["usage"] == expected["response"]["body"]["usage"]

    requests = [each["response"]["request_id"] for each in found.values()]

    async def is_noted() -> bool:
        noted = await asyncio.to_thread(journal, suite, requests, http.headers["x-key-id"])
        done = [request for request, outcome, _ in noted if outcome == "done"]
        return len(done) == len(set(done)) == LINES + len(plain) and set(requests) <= set(done)

    await eventually(is_noted, "each line is in the journal once")


async def test_a_cancelled_batch_keeps_what_is_done_and_nobody_else_sees_it(
    suite: Suite, http: httpx.AsyncClient
) -> None:
    lines = [line("quick", "echo", tokens=3), *(line(f"slow-{number}", tokens=2000) for number in range(12))]
    batch = await begin(http, lines)
    await until(http, batch, "in_progress", completed=1)
    assert (await http.post(f"/v1/batches/{batch}/cancel")).json()["status"] == "cancelling"
    done = await until(http, batch, "cancelled")
    assert list(await answers(http, done["output_file_id"])) == ["quick"]
    stopped = await answers(http, done["error_file_id"])
    assert {each["error"]["code"] for each in stopped.values()} == {"batch_cancelled"}
    assert len(stopped) == 12

    async def all_is_free() -> bool:
        return not [name for name, process in suite.processes.items() if process.service == "worker"
                    and await suite.metric(name, "worker_requests_running")]  # fmt: skip

    await eventually(all_is_free, "the slots are free")

    async with suite.admin() as admin:
        await admin.post("/api/v1/organizations", json={"id": "strangers", "name": "Strangers"})
    credentials = {"email": "admin@localhost", "password": suite.admin_password, "organization": "strangers"}
    async with httpx.AsyncClient(base_url=suite.url, timeout=30) as stranger:
        token = (await stranger.post("/api/v1/auth/login", json=credentials)).json()["access_token"]
        stranger.headers["Authorization"] = f"Bearer {token}"
        paths = [f"batches/{batch}", f"files/{done['output_file_id']}", f"files/{done['output_file_id']}/content"]
        assert {(await stranger.get(f"/v1/{path}")).status_code for path in paths} == {404}
