"""Who may call: known on every gateway while auth is away, forgotten on every gateway when auth says so."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fixtures.suite import Suite, eventually

pytestmark = pytest.mark.e2e

REACHES_ALL_SECONDS = 20.0
"""Far below the minute after which a gateway asks again by itself; most of it is the machine's noise."""

AWAY_SECONDS = 65
"""Longer than what gateways know stays fresh."""

QUESTION = {"model": "echo", "prompt": "who am I?", "stream": False, "options": {"num_predict": 3}}


@pytest.fixture(scope="module")
async def gateways(suite: Suite) -> AsyncIterator[tuple[str, str]]:
    """The addresses of two gateways of one suite."""
    async with suite.another_gateway() as (second, _):
        yield suite.url, second


async def status(url: str, credential: str) -> int:
    headers = {"Authorization": f"Bearer {credential}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        return (await http.post("/api/generate", json=QUESTION)).status_code


async def is_refused(gateways: tuple[str, str], credential: str) -> None:
    async def everywhere() -> bool:
        return [await status(url, credential) for url in gateways] == [401, 401]

    await eventually(everywhere, "both gateways refuse it", REACHES_ALL_SECONDS)


async def test_a_revoked_key_is_refused_by_every_gateway(suite: Suite, gateways: tuple[str, str]) -> None:
    async with suite.admin() as admin:
        key = (await admin.post("/api/v1/keys", json={"name": "laptop"})).json()
        assert [await status(url, key["key"]) for url in gateways] == [200, 200]
        assert (await admin.delete(f"/api/v1/keys/{key['id']}")).status_code == 204
    await is_refused(gateways, key["key"])


async def test_a_session_that_ended_is_refused_by_every_gateway(suite: Suite, gateways: tuple[str, str]) -> None:
    async with suite.admin() as admin:
        token = admin.headers["Authorization"].removeprefix("Bearer ")
        assert [await status(url, token) for url in gateways] == [200, 200]
        assert (await admin.post("/api/v1/auth/logout")).status_code == 204
    await is_refused(gateways, token)


@pytest.mark.chaos
async def test_known_callers_do_not_notice_that_auth_is_away(suite: Suite, gateways: tuple[str, str]) -> None:
    async with suite.admin() as admin:
        key = (await admin.post("/api/v1/keys", json={"name": "stays"})).json()["key"]
        token = admin.headers["Authorization"].removeprefix("Bearer ")
    known = [(url, credential) for url in gateways for credential in (key, token)]
    assert {await status(*caller) for caller in known} == {200}
    auth = suite.processes["auth"]
    auth.kill()
    try:
        until = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < until:
            assert {await status(*caller) for caller in known} == {200}
            await asyncio.sleep(0.1)  # as callers come; without a pause this takes a core from all other tests
        assert await status(gateways[0], "omx_" + "x" * 43) == 503  # nobody can say that it is not a key
    finally:
        auth.start()
        await eventually(auth.ready, "auth is back", 60)
    assert {await status(*caller) for caller in known} == {200}
    await eventually(lambda: _equals(gateways[0], "omx_" + "x" * 43, 401), "strangers are refused again", 15)


async def _equals(url: str, credential: str, expected: int) -> bool:
    return await status(url, credential) == expected
