import pytest

from libs.common.contracts.registry import ListVersions, ModelVersion, RollBack
from libs.common.errors import ModelNotFound
from tests.fixtures.gateway import Gateway

DIGEST = "a" * 64
VERSION = ModelVersion(name="m:latest", digest=DIGEST, size=10, created_at=1.0, current=True)


@pytest.mark.parametrize("model", ["m", "host:5000/ns/m:tag"])
async def test_list_and_restore(gateway: Gateway, model: str) -> None:
    asked: list[ListVersions | RollBack] = []

    def versions(query: ListVersions) -> tuple[ModelVersion, ...]:
        asked.append(query)
        return (VERSION,)

    def roll_back(query: RollBack) -> ModelVersion:
        asked.append(query)
        return VERSION

    gateway.bus.answers |= {ListVersions: versions, RollBack: roll_back}
    async with gateway.caller("operator") as http:
        listed = await http.get(f"/api/v1/models/{model}/versions")
        restored = await http.post(f"/api/v1/models/{model}/versions/{DIGEST}/restore")
    assert (listed.status_code, listed.json()) == (200, {"items": [VERSION.model_dump()], "next_cursor": None})
    assert (restored.status_code, restored.json()) == (200, VERSION.model_dump())
    assert asked == [ListVersions(name=model), RollBack(name=model, digest=DIGEST)]


async def test_who_may(gateway: Gateway) -> None:
    gateway.bus.answers[ListVersions] = lambda _query: ()
    async with gateway.caller("user") as http:
        assert (await http.get("/api/v1/models/m/versions")).status_code == 200
        assert (await http.post(f"/api/v1/models/m/versions/{DIGEST}/restore")).status_code == 403
    async with gateway.client() as http:
        assert (await http.get("/api/v1/models/m/versions")).status_code == 401


async def test_what_is_not_there(gateway: Gateway) -> None:
    def not_found(_query: ListVersions) -> None:
        raise ModelNotFound("model 'm' not found")

    gateway.bus.answers[ListVersions] = not_found
    async with gateway.caller("operator") as http:
        assert (await http.get("/api/v1/models/m/versions")).status_code == 404
        assert (await http.post("/api/v1/models/m/versions/nonsense/restore")).status_code in {400, 422}
