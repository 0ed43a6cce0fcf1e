"""Nodes, the queue and statistics over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from libs.common.contracts.auth.identity import VerifyKey
from libs.common.contracts.message import Message
from libs.common.contracts.paging import Page
from libs.common.contracts.scheduler.nodes import (
    DeleteNode,
    DrainNode,
    GetNode,
    GetNodeHealth,
    ListNodes,
    Node,
    NodeHealth,
    UpdateNode,
)
from libs.common.contracts.scheduler.queue import GetQueue, GetStats, QueueState, SystemStats
from libs.common.errors import Conflict, NotFound, PreconditionFailed, ServiceError
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import Gateway, a_gateway

NODE = Node(id="n1", state="active", draining=False, first_heard_at=1.0, last_heard_at=2.0, version=7)
HEALTH = NodeHealth(id="n1", state="active", healthy=True, last_heard_at=2.0)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway() as gateway:
        gateway.bus.answers[VerifyKey] = lambda _query: an_identity("operator")
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(authorization="Bearer omx_k") as http:
        yield http


def answer(gateway: Gateway, answers: dict[type[Message], Any]) -> list[Message]:
    """What is asked, answered with these or refused with these errors."""
    asked: list[Message] = []

    def play(query: Message) -> Any:
        asked.append(query)
        if isinstance(answers[type(query)], ServiceError):
            raise answers[type(query)]
        return answers[type(query)]

    gateway.bus.answers |= dict.fromkeys(answers, play)
    return asked


async def test_a_list_with_filters(gateway: Gateway, http: httpx.AsyncClient) -> None:
    asked = answer(gateway, {ListNodes: Page(items=(NODE,))})
    filters = {"state": "failed", "region": "eu", "zone": "a", "label": "gpu=l40s"}
    assert (await http.get("/api/v1/nodes", params=filters)).json()["items"][0]["id"] == "n1"
    assert asked == [ListNodes.model_validate(filters)]


async def test_one_has_an_etag(gateway: Gateway, http: httpx.AsyncClient) -> None:
    answer(gateway, {GetNode: NODE})
    assert (await http.get("/api/v1/nodes/n1")).headers["etag"] == '"7"'


async def test_a_change_depends_on_what_was_read(gateway: Gateway, http: httpx.AsyncClient) -> None:
    asked = answer(gateway, {UpdateNode: PreconditionFailed()})
    body = {"region": "eu", "labels": {"gpu": "l40s"}}
    changed = await http.put("/api/v1/nodes/n1", json=body, headers={"If-Match": '"6"'})
    assert changed.status_code == 412
    assert asked == [UpdateNode(node="n1", region="eu", zone="", labels={"gpu": "l40s"}, expected=6)]


@pytest.mark.parametrize(
    "body",
    [
        {"region": "x" * 101},
        {"zone": "\0"},
        {"labels": {"": "x"}},
        {"labels": {"a b": "x"}},
        {"labels": {"a": 1}},
        {"labels": {str(number): "" for number in range(51)}},
        {"draining": True},
    ],
)
async def test_bad_settings(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await http.put("/api/v1/nodes/n1", json=body)).status_code == 400


@pytest.mark.parametrize(("action", "draining"), [("drain", True), ("resume", False)])
async def test_draining(gateway: Gateway, http: httpx.AsyncClient, action: str, draining: bool) -> None:
    asked = answer(gateway, {DrainNode: NODE})
    assert (await http.post(f"/api/v1/nodes/n1/{action}")).status_code == 200
    assert asked == [DrainNode(node="n1", draining=draining)]


@pytest.mark.parametrize(("error", "status"), [(NotFound(), 404), (Conflict(), 409), (None, 204)])
async def test_forgetting(gateway: Gateway, http: httpx.AsyncClient, error: ServiceError | None, status: int) -> None:
    answer(gateway, {DeleteNode: error})
    assert (await http.delete("/api/v1/nodes/n1")).status_code == status


async def test_health(gateway: Gateway, http: httpx.AsyncClient) -> None:
    answer(gateway, {GetNodeHealth: HEALTH})
    assert (await http.get("/api/v1/nodes/n1/health")).json()["healthy"] is True


@pytest.mark.parametrize("path", ["nodes", "nodes/n1", "nodes/n1/health", "system/stats"])
async def test_users_do_not_see_machines(gateway: Gateway, http: httpx.AsyncClient, path: str) -> None:
    gateway.bus.answers[VerifyKey] = lambda _query: an_identity("user")
    assert (await http.get(f"/api/v1/{path}")).status_code == 403


@pytest.mark.parametrize(("role", "organization"), [("user", "o"), ("operator", None)])
async def test_the_queue(gateway: Gateway, http: httpx.AsyncClient, role: str, organization: str | None) -> None:
    gateway.bus.answers[VerifyKey] = lambda _query: an_identity(role)
    asked = answer(gateway, {GetQueue: QueueState(waiting=2)})
    assert (await http.get("/api/v1/queue")).json()["waiting"] == 2
    assert asked == [GetQueue(organization_id=organization, user_id="u")]


async def test_statistics(gateway: Gateway, http: httpx.AsyncClient) -> None:
    numbers = dict.fromkeys(SystemStats.model_fields, 0) | {"time_to_first_token": None, "duration": None}
    asked = answer(gateway, {GetStats: SystemStats.model_validate(numbers)})
    assert (await http.get("/api/v1/system/stats?window_seconds=60")).status_code == 200
    assert asked == [GetStats(window_seconds=60)]
    assert (await http.get("/api/v1/system/stats?window_seconds=5")).status_code == 400
