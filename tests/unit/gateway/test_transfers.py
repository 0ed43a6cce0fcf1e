"""A caller may not take all that a gateway can relay."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common import actor
from libs.common.contracts.registry import PullModel
from libs.common.errors import RateLimited
from services.gateway.api import connection
from services.gateway.api.caller import ANONYMOUS
from services.gateway.api.json_body import LONG_BODY_BYTES
from services.gateway.transfers import Transfers
from tests.fixtures.gateway import Gateway, a_gateway


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway(transfers_per_caller=1, registry_url="http://127.0.0.1:1") as gateway:
        yield gateway


def become(user: str) -> None:
    actor.become(actor.Actor(organization_id="o", user_id=user))


def test_each_user_has_its_own() -> None:
    transfers = Transfers()
    become("one")
    with transfers.one_more(2), transfers.one_more(2):
        with pytest.raises(RateLimited), transfers.one_more(2):
            pass
        become("other")
        with transfers.one_more(2):
            become("one")
    with transfers.one_more(1):
        pass


async def test_an_upload_too_many_is_refused_and_one_that_has_ended_counts_no_more(gateway: Gateway) -> None:
    path = "/api/blobs/sha256:" + "a" * 64
    anonymous = actor.Actor(organization_id="default", user_id=ANONYMOUS)
    async with gateway.client() as http:
        actor.become(anonymous)
        with gateway.ctx.transfers.one_more(1):
            refused = await http.post(path, content=b"x")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"].startswith("limit reached: 1 transfers at once")
        for _ in range(2):
            assert (await http.post(path, content=b"x")).status_code == 503  # there is no registry


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_long_bodies_count_while_they_come(gateway: Gateway, path: str) -> None:
    long, short = ({"model": "m", "prompt": "x" * length} for length in (2 * LONG_BODY_BYTES, 1))
    async with gateway.client() as http:
        actor.become(actor.Actor(organization_id="default", user_id=ANONYMOUS))
        with gateway.ctx.transfers.one_more(1):
            assert (await http.post(path, json=long)).status_code == 429
            assert (await http.post(path, json=short)).status_code == 200
        for _ in range(2):
            assert (await http.post(path, json=long)).status_code == 200


@pytest.mark.parametrize("path", ["/api/chat", "/api/v1/auth/login"])
async def test_a_body_that_stops_is_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr(connection, "PAUSE_SECONDS", 0.05)
    async with gateway.client() as http, asyncio.timeout(10):
        refused = await http.post(path, content=body())
    assert refused.status_code == 503
    assert "the upload stopped" in refused.text


async def test_a_pull_too_many_is_refused_and_one_that_has_ended_counts_no_more(gateway: Gateway) -> None:
    gateway.bus.answers[PullModel] = lambda _command: None
    operations = gateway.ctx.operations
    become("one")
    for number in range(2):
        running = await operations.start(PullModel(operation_id=f"{number}", name="m"))
        with pytest.raises(RateLimited):
            await operations.start(PullModel(operation_id="more", name="m"))
        await running.aclose()
    running = await operations.start(PullModel(operation_id="last", name="m"))
    become("other")
    await (await operations.start(PullModel(operation_id="others", name="m"))).aclose()
    await running.aclose()
