"""/v1/models, which OpenAI's dialect has too: Anthropic's clients tell their version."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from anthropic.types import ModelInfo

from libs.common.contracts.inference import ModelDetails
from libs.common.contracts.registry import DescribeModel, ListModels, ModelDescription, ModelSummary
from libs.common.errors import ModelNotFound
from tests.fixtures.gateway import Gateway, a_gateway

NAMES = [f"m{i}:latest" for i in range(5)]
VERSION = {"anthropic-version": "2023-06-01"}


def a_summary(name: str) -> ModelSummary:
    return ModelSummary(name=name, digest="d", size=1, modified_at=1_700_000_000.5, details=ModelDetails())


def described(query: DescribeModel) -> ModelDescription:
    if query.name != "me/m1:latest":
        raise ModelNotFound
    return ModelDescription(
        name=query.name, modified_at=1_700_000_000, details=ModelDetails(), model_info={}, capabilities=()
    )


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway() as gateway:
        gateway.bus.answers[ListModels] = lambda _: tuple(a_summary(name) for name in NAMES)
        gateway.bus.answers[DescribeModel] = described
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(**VERSION) as http:
        yield http


async def test_models_as_anthropic_shows_them(http: httpx.AsyncClient) -> None:
    response = await http.get("/v1/models")
    listed = response.json()
    assert listed["data"][0] == {
        "type": "model",
        "id": "m0:latest",
        "display_name": "m0:latest",
        "created_at": "2023-11-14T22:13:20Z",
        "lifecycle": "active",
    }
    for model in listed["data"]:
        ModelInfo.model_validate(model)
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "m0:latest", "m4:latest")
    assert response.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("query", "expected", "has_more"),
    [
        ({"limit": 2}, [0, 1], True),
        ({"limit": 2, "after_id": NAMES[1]}, [2, 3], True),
        ({"limit": 2, "after_id": NAMES[3]}, [4], False),
        ({"limit": 2, "before_id": NAMES[3]}, [1, 2], True),
        ({"limit": 9, "before_id": NAMES[1]}, [0], False),
        ({"after_id": NAMES[4]}, [], False),
    ],
)
async def test_pages(http: httpx.AsyncClient, query: dict[str, Any], expected: list[int], *, has_more: bool) -> None:
    listed = (await http.get("/v1/models", params=query)).json()
    assert [model["id"] for model in listed["data"]] == [NAMES[i] for i in expected]
    assert listed["has_more"] is has_more


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"after_id": "x"}, {"before_id": "x"}, {"page": 1}])
async def test_what_is_no_page(http: httpx.AsyncClient, query: dict[str, Any]) -> None:
    response = await http.get("/v1/models", params=query)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_one_model(http: httpx.AsyncClient) -> None:
    assert len((await http.get("/v1/models/")).json()["data"]) == len(NAMES)
    assert (await http.get("/v1/models/me/m1:latest")).json()["id"] == "me/m1:latest"
    missing = await http.get("/v1/models/nobody")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


async def test_to_others_openais_dialect_answers(gateway: Gateway) -> None:
    async with gateway.client() as http:
        assert (await http.get("/v1/models")).json()["object"] == "list"
        assert (await http.get("/v1/models/me/m1:latest")).json()["object"] == "model"
