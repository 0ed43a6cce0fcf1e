"""Inference requests over HTTP: whose they are, and how they are read on."""

from typing import TypeVar

import pytest

from libs.common.contracts.message import Message
from libs.common.contracts.paging import Page
from libs.common.contracts.scheduler.requests import (
    GetRequest,
    ListRequests,
    RequestDetails,
    RequestSummary,
)
from tests.fixtures.gateway import Gateway

Asked = TypeVar("Asked", bound=Message)

ID = "0123456789abcdef" * 2
PATH = f"/api/v1/inference/requests/{ID}"


def note(gateway: Gateway, query: type[Asked], answer: object) -> list[Asked]:
    """What is asked, always answered with this."""
    asked: list[Asked] = []

    def play(query: Asked) -> object:
        asked.append(query)
        return answer

    gateway.bus.answers[query] = play
    return asked


def a_summary(**changes: object) -> RequestSummary:
    return RequestSummary.model_validate(
        {"id": ID, "status": "done", "kind": "chat", "model": "m:latest", "accepted_at": 1.0, **changes}
    )


@pytest.mark.parametrize(
    ("role", "query", "expected"),
    [("user", "", "u"), ("user", "?user_id=u", "u"), ("operator", "", None), ("operator", "?user_id=v", "v")],
)
async def test_users_list_their_own_and_operators_all(gateway: Gateway, role: str, query: str, expected: str) -> None:
    asked = note(gateway, ListRequests, Page(items=(a_summary(),)))
    async with gateway.caller(role) as http:
        answer = await http.get(f"/api/v1/inference/requests{query}")
    assert answer.status_code == 200
    assert answer.json()["items"][0]["id"] == ID
    assert asked[0].user_id == expected


async def test_filters(gateway: Gateway) -> None:
    asked = note(gateway, ListRequests, Page[RequestSummary](items=()))
    filters = {"status": "failed", "model": "m", "key_id": "k", "from": "1.5", "to": "2", "limit": "3"}
    async with gateway.caller("operator") as http:
        assert (await http.get("/api/v1/inference/requests", params=filters)).status_code == 200
    query = asked[0]
    assert (query.status, query.model, query.key_id, query.paging.limit) == ("failed", "m:latest", "k", 3)
    assert (query.accepted_from, query.accepted_before) == (1.5, 2)


@pytest.mark.parametrize("query", ["status=lost", "from=-1", "to=inf", "model=%00", "limit=0", "cursor=!"])
async def test_bad_filters(gateway: Gateway, query: str) -> None:
    async with gateway.caller("operator") as http:
        assert (await http.get(f"/api/v1/inference/requests?{query}")).status_code == 400


async def test_those_of_others_need_a_permission(gateway: Gateway) -> None:
    async with gateway.caller("user") as http:
        assert (await http.get("/api/v1/inference/requests?user_id=v")).status_code == 403


async def test_models_that_a_key_may_not_know_of_are_in_no_list(gateway: Gateway) -> None:
    both = (a_summary(), a_summary(model="secret:latest"))
    gateway.bus.answers[ListRequests] = lambda _query: Page(items=both, next_cursor="c")
    gateway.bus.answers[GetRequest] = lambda _query: RequestDetails(**both[1].model_dump())
    async with gateway.caller("operator", models=(("m*",),)) as http:
        page = (await http.get("/api/v1/inference/requests")).json()
        assert ([each["model"] for each in page["items"]], page["next_cursor"]) == (["m:latest"], "c")
        assert (await http.get(PATH)).status_code == 404


@pytest.mark.parametrize(("role", "owner"), [("user", "u"), ("readonly", None), ("operator", None)])
async def test_one_request(gateway: Gateway, role: str, owner: str | None) -> None:
    asked = note(gateway, GetRequest, RequestDetails(**a_summary(status="waiting").model_dump(), position=3))
    async with gateway.caller(role) as http:
        assert (await http.get(PATH)).json()["position"] == 3
    assert asked == [GetRequest(request_id=ID, user_id=owner)]


@pytest.mark.parametrize("path", ["/api/v1/inference/requests/nonsense", f"{PATH}/stream?after=-1", f"{PATH}x"])
async def test_bad_ids(gateway: Gateway, path: str) -> None:
    async with gateway.caller() as http:
        assert (await http.get(path)).status_code == 400
