"""Doors of limits and usage: whose they are about, who may, and what is passed on."""

from datetime import date
from typing import Any

import httpx
import pytest

from libs.common.contracts.auth.identity import Limits
from libs.common.contracts.auth.limits import DeleteLimits, GetLimits, ListLimits, PutLimits, SetLimits
from libs.common.contracts.auth.usage import GetUsage, UsageRow
from libs.common.contracts.message import Message
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import ROLES, Permission
from tests.fixtures.gateway import Gateway

FEW = Limits(requests_per_minute=3)
ROW = UsageRow(day=date(2026, 11, 21), requests=1, prompt_tokens=2, completion_tokens=3)


@pytest.fixture
def asked(gateway: Gateway) -> list[Message]:
    """Of auth, which knows everything."""
    heard: list[Message] = []

    def answering(answer: Any) -> Any:
        def hear(query: Message) -> Any:
            heard.append(query)
            return answer

        return hear

    found = SetLimits(scope="model", id="m*", limits=FEW, version=7)
    gateway.bus.answers |= {query: answering(found) for query in (GetLimits, PutLimits)}
    gateway.bus.answers[ListLimits] = answering(Page[SetLimits](items=(found,)))
    gateway.bus.answers[GetUsage] = answering(Page[UsageRow](items=(ROW,)))
    gateway.bus.answers[DeleteLimits] = answering(None)
    return heard


@pytest.mark.parametrize("pattern", ["llama*", "host:5000/ns/m:tag", "m?%5Ba-z%5D".replace("?", "%3F")])
async def test_limits_of_models_by_their_pattern(gateway: Gateway, asked: list[Message], pattern: str) -> None:
    async with gateway.caller("admin") as http:
        put = await http.put(
            f"/api/v1/limits/model/{pattern}", json=FEW.model_dump(exclude_none=True), headers={"If-Match": '"7"'}
        )
        gone = await http.delete(f"/api/v1/limits/model/{pattern}")
    assert (put.status_code, put.headers["etag"], gone.status_code) == (200, '"7"', 204)
    name = httpx.URL(f"http://h/{pattern}").path.removeprefix("/")
    assert asked == [
        PutLimits(organization_id="o", scope="model", id=name, limits=FEW, expected_version=7),
        DeleteLimits(organization_id="o", scope="model", id=name),
    ]


async def test_the_ceiling_is_set_by_who_manages_tenants(gateway: Gateway, asked: list[Message]) -> None:
    async with gateway.caller("admin", permissions=ROLES["admin"] - {Permission.TENANT_MANAGE}) as http:
        assert (await http.put("/api/v1/limits/organization/o", json={})).status_code == 403
        assert (await http.delete("/api/v1/limits/organization/o")).status_code == 403
        assert (await http.get("/api/v1/limits/organization/o")).status_code == 200
        for path in ("organization/other", "user/u?organization_id=other", "?organization_id=other"):
            assert (await http.get(f"/api/v1/limits/{path}".replace("/?", "?"))).status_code == 404
    async with gateway.caller("admin") as http:
        assert (await http.put("/api/v1/limits/organization/other", json={})).status_code == 200
        assert (await http.get("/api/v1/limits?organization_id=other")).status_code == 200
    assert asked == [
        GetLimits(organization_id="o", scope="organization", id="o"),
        PutLimits(organization_id="other", scope="organization", id="other", limits=Limits()),
        ListLimits(organization_id="other"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"requests_per_minute": 0},
        {"tokens_per_day": -1},
        {"tokens_per_day": 10**30},
        {"requests_per_minute": True},
        {"requests_per_minute": "3"},
        {"requests_per_year": 3},
        [],
    ],
)
async def test_limits_that_are_none(gateway: Gateway, asked: list[Message], body: object) -> None:
    async with gateway.caller("admin") as http:
        response = await http.put("/api/v1/limits/model/m", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert asked == []


@pytest.mark.usefixtures("asked")
async def test_who_may(gateway: Gateway) -> None:
    async with gateway.caller("user") as http:
        assert (await http.get("/api/v1/limits")).status_code == 403
        assert (await http.put("/api/v1/limits/user/u", json={})).status_code == 403
        assert (await http.get("/api/v1/limits/mine")).json() == {"items": []}
        assert (await http.get("/api/v1/usage?user_id=another")).status_code == 403


async def test_usage_of_oneself_and_of_all(gateway: Gateway, asked: list[Message]) -> None:
    async with gateway.caller("user") as http:
        assert (await http.get("/api/v1/usage")).json()["items"] == [ROW.model_dump(mode="json")]
    async with gateway.caller("readonly") as http:
        query = {"group_by": ["model", "day"], "from": "2026-11-01", "to": "2026-11-21", "model": "m", "key_id": "k"}
        assert (await http.get("/api/v1/usage", params=query)).status_code == 200
    assert asked == [
        GetUsage(organization_id="o", user_id="u"),
        GetUsage(
            organization_id="o",
            group_by=("model", "day"),
            since=date(2026, 11, 1),
            until=date(2026, 11, 21),
            model="m:latest",
            key_id="k",
        ),
    ]


async def test_usage_is_asked_of_models_that_the_caller_may_see(gateway: Gateway, asked: list[Message]) -> None:
    async with gateway.caller("readonly", models=(("mine*",),)) as http:
        assert (await http.get("/api/v1/usage?group_by=model")).status_code == 200
        assert (await http.get("/api/v1/models/m/usage")).status_code == 404
    assert asked == [GetUsage(organization_id="o", group_by=("model",), patterns=(("mine*",),))]


async def test_usage_of_a_model(gateway: Gateway, asked: list[Message]) -> None:
    async with gateway.caller("readonly") as http:
        assert (await http.get("/api/v1/models/m/usage")).status_code == 200
        assert (await http.get("/api/v1/models/unknown/usage")).status_code == 404
    assert asked == [GetUsage(organization_id="o", model="m:latest")]


@pytest.mark.parametrize("query", ["from=yesterday", "group_by=hour", "limit=0", "model=%00"])
async def test_questions_that_are_none(gateway: Gateway, query: str) -> None:
    async with gateway.caller("readonly") as http:
        response = await http.get(f"/api/v1/usage?{query}")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
