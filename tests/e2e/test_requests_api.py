"""Requests, nodes and the queue of a running installation: read on elsewhere, cancelled, drained, kept or not."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from libs.common.bus.dead_letters import list_dead
from tests.fixtures.suite import Process, Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

API = "/api/v1"
TOKENS = 60


def a_body(prompt: str, model: str = "echo-50", **more: object) -> dict[str, object]:
    return {"model": model, "prompt": prompt, "options": {"num_predict": TOKENS}, **more}


async def own_node(admin: httpx.AsyncClient) -> dict[str, Any]:
    """Where the suite's workers are; other tests leave nodes behind that are offline."""
    nodes = (await admin.get(f"{API}/nodes", params={"limit": 200})).json()["items"]
    (node,) = [node for node in nodes if node["state"] != "offline"]
    return dict(node)


async def whole_answer(http: httpx.AsyncClient, prompt: str) -> str:
    answer = await http.post(f"{API}/inference/generate", json=a_body(prompt, "echo", stream=False))
    return str(answer.json()["response"])


async def lines_of(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        yield json.loads(line)


async def details(http: httpx.AsyncClient, request_id: str) -> dict[str, Any]:
    answer = await http.get(f"{API}/inference/requests/{request_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def becomes(http: httpx.AsyncClient, request_id: str, status: str) -> dict[str, Any]:
    async def is_so() -> bool:
        return bool((await details(http, request_id))["status"] == status)

    await eventually(is_so, f"the request is {status}")
    return await details(http, request_id)


@pytest.mark.parametrize("after_lines", [1, 20])
async def test_an_answer_is_read_on_elsewhere_when_its_gateway_is_killed(
    suite: Suite, admin: httpx.AsyncClient, second_gateway: tuple[str, Process], after_lines: int
) -> None:
    url, process = second_gateway
    prompt = f"killed after {after_lines}"
    expected = await whole_answer(admin, prompt)
    text, seq, request_id = "", 0, ""
    async with httpx.AsyncClient(base_url=url, headers=admin.headers, timeout=30) as http:
        with pytest.raises(httpx.HTTPError):  # noqa: PT012  it breaks somewhere in the middle
            async with http.stream("POST", f"{API}/inference/generate", json=a_body(prompt, "echo-10")) as answer:
                request_id = answer.headers["x-request-id"]
                async for line in lines_of(answer):
                    text, seq = text + line["response"], line["seq"]
                    if seq == after_lines:
                        process.kill()
    assert (await details(admin, request_id))["status"] == "running"
    path = f"{API}/inference/requests/{request_id}/stream"
    async with admin.stream("GET", path, params={"after": seq}) as rest:
        lines = [line async for line in lines_of(rest)]
    assert text + "".join(line["text"] for line in lines) == expected
    assert [line["seq"] for line in lines] == list(range(seq + 1, seq + 1 + len(lines)))
    assert lines[-1]["completion_tokens"] == TOKENS
    assert (await becomes(admin, request_id, "done"))["attempt_count"] == 1


async def test_a_cancel_ends_the_answer_and_frees_the_slot(suite: Suite, admin: httpx.AsyncClient) -> None:
    async with admin.stream("POST", f"{API}/inference/generate", json=a_body("cancelled", "echo-10")) as answer:
        request_id = answer.headers["x-request-id"]
        lines = lines_of(answer)
        await anext(lines)
        running = (await admin.get(f"{API}/inference/requests", params={"status": "running"})).json()["items"]
        assert request_id in [each["id"] for each in running]
        assert (await admin.delete(f"{API}/inference/requests/{request_id}")).status_code == 204
        last = [line async for line in lines][-1]
    assert last["error"]["code"] == "request_cancelled"
    ended = await becomes(admin, request_id, "cancelled")
    assert 0 < ended["completion_tokens"] < TOKENS
    await nobody_waits(admin)
    assert (await admin.delete(f"{API}/inference/requests/{request_id}")).status_code == 204


async def test_a_node_that_drains_finishes_and_begins_nothing(suite: Suite, admin: httpx.AsyncClient) -> None:
    node = (await own_node(admin))["id"]
    expected = await whole_answer(admin, "drained")
    await nobody_waits(admin)
    async with admin.stream("POST", f"{API}/inference/generate", json=a_body("drained")) as answer:
        lines = lines_of(answer)
        text = (await anext(lines))["response"]
        assert (await admin.post(f"{API}/nodes/{node}/drain")).json()["state"] == "draining"
        try:
            waiting = asyncio.create_task(whole_answer(admin, "comes later"))
            mine = await the_waiting_one(admin, besides=answer.headers["x-request-id"])
            assert text + "".join([line["response"] async for line in lines]) == expected
            waits = await details(admin, mine["id"])
            assert (waits["position"], set(waits["refused_by"])) == (1, {"node_takes_work"})
        finally:
            assert (await admin.post(f"{API}/nodes/{node}/resume")).json()["state"] == "active"
    assert len((await waiting).split()) == TOKENS
    assert (await becomes(admin, answer.headers["x-request-id"], "done"))["attempt_count"] == 1


async def nobody_waits(admin: httpx.AsyncClient) -> None:
    """What the queue shows may be half a second old: an earlier test's request may still be in it."""

    async def is_empty() -> bool:
        return bool((await admin.get(f"{API}/queue")).json()["waiting"] == 0)

    await eventually(is_empty, "nobody waits")


async def the_waiting_one(admin: httpx.AsyncClient, besides: str = "") -> dict[str, Any]:
    """``besides``: one that waited for a moment, and may still be shown."""
    found: list[dict[str, Any]] = []

    async def is_shown() -> bool:
        shown = (await admin.get(f"{API}/queue")).json()["requests"]
        found[:] = [request for request in shown if request["id"] != besides]
        return bool(found)

    await eventually(is_shown, "the request is in the queue")
    return found[0]


async def test_a_request_that_waits_is_cancelled(suite: Suite, admin: httpx.AsyncClient) -> None:
    await nobody_waits(admin)
    node = (await own_node(admin))["id"]
    await admin.post(f"{API}/nodes/{node}/drain")
    try:
        waiting = asyncio.create_task(
            admin.post(f"{API}/inference/generate", json=a_body("never", "echo", stream=False))
        )
        request_id = (await the_waiting_one(admin))["id"]
        assert (await admin.delete(f"{API}/inference/requests/{request_id}")).status_code == 204
        assert (await waiting).json()["error"]["code"] == "request_cancelled"
    finally:
        await admin.post(f"{API}/nodes/{node}/resume")
    assert (await becomes(admin, request_id, "cancelled"))["granted_at"] is None


async def everything_stored(suite: Suite, own_postgres_urls: dict[str, str]) -> str:
    """Every row of every table of every service, as text."""
    found: list[str] = []
    for service, url in own_postgres_urls.items():
        with psycopg.connect(url, connect_timeout=5) as database:
            database.execute("select set_config('ollamamax.organization', '*', false)")
            tables = database.execute("select tablename from pg_tables where schemaname = %s", [service]).fetchall()
            for (table,) in tables:
                identifier = psycopg.sql.Identifier(table)
                rows = database.execute(psycopg.sql.SQL("select t::text from {} t").format(identifier)).fetchall()
                found += [row for (row,) in rows]
    return "\n".join(found)


async def test_nothing_of_a_prompt_stays_where_that_is_not_wanted(
    suite: Suite, admin: httpx.AsyncClient, own_postgres_urls: dict[str, str], rabbitmq_url: str
) -> None:
    secret, dead = f"secret{secrets.token_hex(8)}", await list_dead(rabbitmq_url)
    answer = await admin.post(f"{API}/inference/generate", json=a_body(secret, "echo", stream=False))
    request_id = answer.headers["x-request-id"]
    assert (await becomes(admin, request_id, "done"))["exchange"] is None

    async def is_in_the_journal() -> bool:
        return request_id in await everything_stored(suite, own_postgres_urls)

    await eventually(is_in_the_journal, "the request is stored")
    assert secret not in await everything_stored(suite, own_postgres_urls)
    assert not [path.name for path in suite.directory.glob("*.log") if secret in path.read_text(errors="replace")]
    assert await list_dead(rabbitmq_url) == dead


async def test_an_exchange_is_kept_sealed_where_that_is_wanted(
    suite: Suite, admin: httpx.AsyncClient, own_postgres_urls: dict[str, str]
) -> None:
    secret = f"secret{secrets.token_hex(8)}"
    organization = (await admin.get(f"{API}/organizations/default")).json()
    settings = {"name": organization["name"], "store_prompts": True}
    assert (await admin.put(f"{API}/organizations/default", json=settings)).status_code == 200
    try:
        request_id = await kept(admin, secret)
    finally:
        assert (
            await admin.put(f"{API}/organizations/default", json={**settings, "store_prompts": False})
        ).status_code == 200
    exchange = (await details(admin, request_id))["exchange"]
    assert exchange["messages"] == [{"role": "user", "content": secret}]
    assert exchange["answer"] == await whole_answer(admin, secret)
    assert secret not in await everything_stored(suite, own_postgres_urls)


async def kept(admin: httpx.AsyncClient, prompt: str) -> str:
    """The id of a request with this prompt whose exchange is kept: gateways hear within a second that it should be."""
    request_id = ""

    async def is_kept() -> bool:
        nonlocal request_id
        answer = await admin.post(f"{API}/inference/generate", json=a_body(prompt, "echo", stream=False))
        request_id = answer.headers["x-request-id"]
        await becomes(admin, request_id, "done")
        return (await details(admin, request_id))["exchange"] is not None

    await eventually(is_kept, "an exchange is kept", 30)
    return request_id


async def test_statistics_and_health(suite: Suite, admin: httpx.AsyncClient) -> None:
    await whole_answer(admin, "counted")

    async def is_counted() -> bool:
        stats = (await admin.get(f"{API}/system/stats", params={"window_seconds": 60})).json()
        return bool(stats["done"] and stats["completion_tokens_per_second"] > 0 and stats["duration"])

    await eventually(is_counted, "what ended is counted")
    node = await own_node(admin)
    assert (node["state"], node["workers"]) == ("active", len(suite.workers()))
    assert node["cpus"] > 0
    assert (await admin.get(f"{API}/nodes/{node['id']}/health")).json()["healthy"]
