"""``/api/v1/models``: what is asked of the registry, and what is answered."""

from typing import Any

import pytest

from libs.common.contracts.inference import ModelDetails
from libs.common.contracts.message import Message
from libs.common.contracts.paging import Page, PageRequest
from libs.common.contracts.registry import DeleteModel
from libs.common.contracts.registry.models import AddModel, ChangeModel, FindModels, GetModel, Model
from libs.common.errors import Forbidden, PreconditionFailed
from tests.fixtures.gateway import Gateway

MODEL = Model(
    name="team/m:7b",
    digest="d",
    size=1,
    modified_at=2.0,
    details=ModelDetails(),
    created_at=1.0,
    version=3,
    tags=("a",),
)
PATH = "/api/v1/models"


@pytest.fixture
def asked(gateway: Gateway) -> list[Message]:
    """The registry's answers are always the same."""
    seen: list[Message] = []
    answers: dict[type[Message], Any] = {
        FindModels: Page(items=(MODEL,), next_cursor="c"),
        GetModel: MODEL,
        AddModel: MODEL,
        ChangeModel: MODEL,
        DeleteModel: None,
    }

    def play(query: Message) -> Any:
        seen.append(query)
        return answers[type(query)]

    gateway.bus.answers |= dict.fromkeys(answers, play)
    return seen


async def test_a_list_with_every_filter(gateway: Gateway, asked: list[Message]) -> None:
    async with gateway.caller("user", models=(("team/*",),)) as http:
        answer = await http.get(f"{PATH}?status=ready&name=m&tags=a&tags=b&created_by=u&limit=7&cursor=xyz")
    assert answer.status_code == 200
    assert answer.json() == {"items": [MODEL.model_dump(mode="json")], "next_cursor": "c"}
    paging = PageRequest(limit=7, cursor="xyz")
    patterns = (("team/*",),)
    assert asked == [
        FindModels(patterns=patterns, status="ready", name="m", tags=("a", "b"), created_by="u", paging=paging)
    ]


async def test_one_is_added_and_told_where_to_look(gateway: Gateway, asked: list[Message]) -> None:
    body = {"name": "team/m:7b", "from": "base", "system": "s", "parameters": {"stop": ["x"]}, "tags": ["a"]}
    async with gateway.caller("operator") as http:
        answer = await http.post(PATH, json=body)
    assert (answer.status_code, answer.headers["location"]) == (202, f"{PATH}/team/m:7b")
    assert asked == [AddModel(name="team/m:7b", base="base", system="s", parameters={"stop": ["x"]}, tags=("a",))]


async def test_one_is_read_changed_and_deleted(gateway: Gateway, asked: list[Message]) -> None:
    async with gateway.caller("operator") as http:
        read = await http.get(f"{PATH}/team/m:7b")
        body = {"tags": ["b"], "description": "d", "shared": True}
        changed = await http.put(f"{PATH}/team/m:7b", json=body, headers={"If-Match": read.headers["etag"]})
        deleted = await http.delete(f"{PATH}/team/m:7b")
    assert (read.status_code, read.headers["etag"], read.json()) == (200, '"3"', MODEL.model_dump(mode="json"))
    assert (changed.status_code, changed.headers["etag"], deleted.status_code) == (200, '"3"', 204)
    assert asked == [
        GetModel(name="team/m:7b"),
        ChangeModel(name="team/m:7b", tags=("b",), description="d", shared=True, expected_version=3),
        DeleteModel(name="team/m:7b", on_its_way=True),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {}),
        ("POST", "", {"name": ""}),
        ("POST", "", {"name": "a\x00"}),
        ("POST", "", {"name": "m", "system": "without a base"}),
        ("POST", "", {"name": "m", "tags": ["x"] * 51}),
        ("POST", "", {"name": "m", "tags": [""]}),
        ("POST", "", {"name": "m", "unknown": 1}),
        ("PUT", "/m", {"shared": 1}),
        ("PUT", "/m", {"description": "x" * 2001}),
        ("GET", "?status=other", None),
        ("GET", "?limit=0", None),
    ],
)
async def test_what_is_refused(gateway: Gateway, asked: list[Message], method: str, path: str, body: Any) -> None:
    async with gateway.caller("admin") as http:
        answer = await http.request(method, PATH + path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert asked == []


@pytest.mark.parametrize(("error", "status"), [(PreconditionFailed(), 412), (Forbidden(), 403)])
async def test_what_the_registry_refuses(gateway: Gateway, error: Exception, status: int) -> None:
    def refuse(_query: ChangeModel) -> None:
        raise error

    gateway.bus.answers[ChangeModel] = refuse
    async with gateway.caller("operator") as http:
        assert (await http.put(f"{PATH}/m", json={})).status_code == status


async def test_who_may(gateway: Gateway, asked: list[Message]) -> None:
    async with gateway.caller("user") as http:
        assert (await http.get(f"{PATH}/m")).status_code == 200
        for method, path in (("POST", PATH), ("PUT", f"{PATH}/m"), ("DELETE", f"{PATH}/m")):
            answer = await http.request(method, path, json={"name": "m"} if method == "POST" else {})
            assert answer.status_code == 403
    async with gateway.client() as nobody:
        assert (await nobody.get(PATH)).status_code == 401
    assert asked == [GetModel(name="m")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/secret"),
        ("PUT", "/secret"),
        ("DELETE", "/secret"),
        ("GET", "/secret/versions"),
        ("POST", f"/secret/versions/{'a' * 64}/restore"),
        ("GET", "/secret/replicas"),
        ("GET", f"/{'a' * 64}/replicas"),
        ("POST", "/secret/replicate"),
    ],
)
async def test_nobody_is_asked_about_what_the_caller_may_not_know_of(
    gateway: Gateway, asked: list[Message], method: str, path: str
) -> None:
    async with gateway.caller("operator", models=(("a*", "team/*"),)) as http:
        answer = await http.request(method, PATH + path, json={"nodes": 1} if path.endswith("replicate") else {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert asked == []
