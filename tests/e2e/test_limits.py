"""Limits of a running installation with two gateways, one of which dies; and usage as its ledger has it."""

from typing import Any

import httpx
import pytest

from tests.fixtures.suite import Process, Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

API = "/api/v1"


async def a_key(admin: httpx.AsyncClient, **limits: int) -> tuple[str, dict[str, str]]:
    """Its id, and the header that proves it."""
    made = await admin.post(f"{API}/keys", json={"name": "limited", "limits": limits})
    assert made.status_code == 201, made.text
    return made.json()["id"], {"Authorization": f"Bearer {made.json()['key']}"}


async def ask(url: str, key: dict[str, str], model: str = "echo", tokens: int = 5) -> httpx.Response:
    body = {"model": model, "prompt": "two words", "stream": False, "options": {"num_predict": tokens}}
    async with httpx.AsyncClient(base_url=url, headers=key, timeout=30) as http:
        return await http.post("/api/generate", json=body)


async def test_two_gateways_share_a_limit_and_hear_of_its_change(
    suite: Suite, admin: httpx.AsyncClient, second_gateway: tuple[str, Process]
) -> None:
    key_id, key = await a_key(admin, requests_per_minute=4)
    statuses = [(await ask(url, key)).status_code for url in (suite.url, second_gateway[0]) * 3]
    assert statuses == [200, 200, 200, 200, 429, 429]
    assert (await admin.put(f"{API}/limits/key/{key_id}", json={"requests_per_minute": 5})).status_code == 200

    async def is_let_in() -> bool:
        return (await ask(second_gateway[0], key)).status_code == 200

    await eventually(is_let_in, "the gateway knows the new limit")
    assert (await ask(suite.url, key)).status_code == 429


async def test_a_gateway_that_dies_leaves_no_slot_taken(
    suite: Suite, admin: httpx.AsyncClient, second_gateway: tuple[str, Process]
) -> None:
    _, key = await a_key(admin, concurrent_streams=1, tokens_per_day=1000)
    url, process = second_gateway
    body = {"model": "echo-20", "prompt": "two words", "options": {"num_predict": 100}}
    async with (
        httpx.AsyncClient(headers=key, timeout=30) as http,
        http.stream("POST", f"{url}/api/generate", json=body) as answer,
    ):
        lines = answer.aiter_lines()  # kept: without it the answer is closed
        await anext(lines)
        assert (await ask(suite.url, key)).status_code == 429
        process.kill()

    async def is_let_in() -> bool:
        return (await ask(suite.url, key)).status_code == 200

    await eventually(is_let_in, "the slot is free again", 30)
    async with httpx.AsyncClient(base_url=suite.url, headers=key, timeout=30) as http:
        left = {each["unit"]: each["left"] for each in (await http.get(f"{API}/limits/mine")).json()["items"]}
    assert left == {"streams": 1, "tokens": 1000 - (2 + 100) - (2 + 5)}


async def test_usage_is_what_the_answers_said(suite: Suite, admin: httpx.AsyncClient) -> None:
    key_id, key = await a_key(admin)
    for tokens in (3, 4):
        assert (await ask(suite.url, key, tokens=tokens)).status_code == 200

    async def rows(**query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await admin.get(f"{API}/usage", params={"key_id": key_id} | query)).json()[
            "items"
        ]
        return found

    async def both_are_there() -> bool:
        return [row["requests"] for row in await rows()] == [2]

    await eventually(both_are_there, "both requests are in the ledger")
    [row] = await rows(group_by=["model", "key"])
    assert (row["model"], row["key_id"], row["prompt_tokens"], row["completion_tokens"]) == (
        "echo",
        key_id,
        4,
        7,
    )
    assert (await admin.get(f"{API}/models/echo/usage")).json()["items"][0]["requests"] >= 2
