"""The suite without workers, on real servers: callers, model names, and what happens while auth is away."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fixtures.database import new_database
from tests.fixtures.suite import Suite, a_suite, eventually


@pytest.fixture(scope="module")
async def suite(
    tmp_path_factory: pytest.TempPathFactory,
    rabbitmq_url: str,
    redis_url: str,
    postgres_url: str,
    passwords: dict[str, str],
) -> AsyncIterator[Suite]:
    with new_database(postgres_url, passwords) as postgres_urls:
        suite = a_suite(tmp_path_factory.mktemp("suite"), rabbitmq_url, redis_url, postgres_urls, workers=0)
        suite.processes["gateway"].environment["GATEWAY_ANONYMOUS"] = "false"
        async with suite.running():
            yield suite


@pytest.fixture
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=suite.url, timeout=15) as http:
        yield http


@pytest.fixture
async def token(suite: Suite, http: httpx.AsyncClient) -> dict[str, str]:
    credentials = {"email": "admin@localhost", "password": suite.admin_password}
    response = await http.post("/api/v1/auth/login", json=credentials)
    assert response.status_code == 200, response.text
    return {"Authorization": f"Bearer {response.json()['access_token']}"}


async def test_a_key_works_until_it_is_revoked(http: httpx.AsyncClient, token: dict[str, str]) -> None:
    created = (await http.post("/api/v1/keys", json={"name": "laptop"}, headers=token)).json()
    key = {"Authorization": f"Bearer {created['key']}"}
    assert (await http.get("/api/tags", headers=key)).status_code == 200
    listed = (await http.get("/api/v1/keys", headers=key)).json()["items"]
    assert [each["id"] for each in listed] == [created["id"]]
    assert (await http.delete(f"/api/v1/keys/{created['id']}", headers=token)).status_code == 204

    async def refused() -> bool:
        return (await http.get("/api/tags", headers=key)).status_code == 401

    await eventually(refused, "the revoked key is refused")


async def test_who_is_nobody(http: httpx.AsyncClient, token: dict[str, str]) -> None:
    for headers in ({}, {"x-api-key": "omx_wrong"}, {"Authorization": token["Authorization"][:-5] + "AAAAA"}):
        response = await http.post("/api/chat", json={"model": "smollm2:135m"}, headers=headers)
        assert (response.status_code, response.json()) == (401, {"error": "unauthorized"})
    wrong = await http.post("/api/v1/auth/login", json={"email": "admin@localhost", "password": "wrong"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "unauthenticated")


async def test_models(http: httpx.AsyncClient, token: dict[str, str]) -> None:
    tags = (await http.get("/api/tags", headers=token)).json()["models"]
    assert [model["name"] for model in tags] == ["smollm2:135m"]
    shown = (await http.post("/api/show", json={"model": "smollm2:135m"}, headers=token)).json()
    assert shown["details"]["family"] == "llama"
    assert shown["model_info"]["general.architecture"] == "llama"
    unknown = await http.post("/api/chat", json={"model": "nope"}, headers=token)
    assert (unknown.status_code, unknown.json()) == (404, {"error": "model 'nope' not found"})
    invalid = await http.post("/api/chat", json={"model": "a b"}, headers=token)
    assert (invalid.status_code, invalid.json()) == (400, {"error": "invalid model name"})
    assert (await http.get("/api/ps", headers=token)).json() == {"models": []}


async def test_health(suite: Suite, http: httpx.AsyncClient) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/health/db"):
        assert (await http.get(path)).json()["status"] == "ok"


async def test_known_callers_go_on_while_auth_is_away(
    suite: Suite, http: httpx.AsyncClient, token: dict[str, str]
) -> None:
    created = (await http.post("/api/v1/keys", json={"name": "batch"}, headers=token)).json()
    key = {"x-api-key": created["key"]}
    assert (await http.get("/api/tags", headers=key)).status_code == 200
    suite.processes["auth"].kill()
    try:
        for headers in (key, token):
            assert (await http.get("/api/tags", headers=headers)).status_code == 200
        stranger = await http.get("/api/tags", headers={"x-api-key": "omx_new"})
        assert stranger.status_code == 503
        assert "retry-after" in stranger.headers
    finally:
        await suite.start("auth")


async def test_a_request_nobody_answers_is_cancelled_when_its_client_leaves(
    suite: Suite, http: httpx.AsyncClient, token: dict[str, str]
) -> None:
    body = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}]}
    waiting = asyncio.create_task(http.post("/api/chat", json=body, headers=token))

    async def followed() -> bool:
        return await suite.metric("gateway", "gateway_streams_active") == 1

    async def forgotten() -> bool:
        return await suite.metric("gateway", "gateway_streams_active") == 0

    await eventually(followed, "the request is followed")
    waiting.cancel()
    await eventually(forgotten, "the request is given up")
