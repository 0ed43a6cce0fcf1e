import pytest

from libs.common.contracts.permissions import ROLES, effective
from libs.common.contracts.registry import ListReplicas, Replica, ReplicateModel
from libs.common.errors import InvalidRequest, ModelNotFound
from tests.fixtures.gateway import Gateway

REPLICA = Replica(node="a", state="syncing", size=10, completed=4, health=1.0, verified_at=None, heard_at=2.0, error="")


@pytest.mark.parametrize("model", ["m", "host:5000/ns/m:tag", "sha256:" + "a" * 64])
async def test_replicate(gateway: Gateway, model: str) -> None:
    asked: list[ReplicateModel] = []

    def replicate(query: ReplicateModel) -> tuple[Replica, ...]:
        asked.append(query)
        return (REPLICA,)

    gateway.bus.answers[ReplicateModel] = replicate
    async with gateway.caller("operator") as http:
        response = await http.post(f"/api/v1/models/{model}/replicate", json={"nodes": 2})
    assert (response.status_code, response.json()) == (202, {"items": [REPLICA.model_dump()], "next_cursor": None})
    assert asked == [ReplicateModel(model=model, count=2)]


async def test_list(gateway: Gateway) -> None:
    gateway.bus.answers[ListReplicas] = lambda _query: (REPLICA,)
    async with gateway.caller("readonly") as http:
        response = await http.get("/api/v1/models/ns/m:tag/replicas")
    assert (response.status_code, response.json()) == (200, {"items": [REPLICA.model_dump()], "next_cursor": None})


async def test_nodes_are_not_named_to_who_may_not_know_of_them(gateway: Gateway) -> None:
    failed = REPLICA.model_copy(update={"state": "failed", "error": "cannot reach http://10.0.0.7"})
    gateway.bus.answers[ListReplicas] = gateway.bus.answers[ReplicateModel] = lambda _query: (failed,)
    own = effective(ROLES["operator"], "acme")
    async with gateway.caller("operator", organization_id="acme", permissions=own) as http:
        answers = [await http.get("/api/v1/models/m/replicas")]
        answers.append(await http.post("/api/v1/models/m/replicate", json={"nodes": 1}))
    for answer in answers:
        [replica] = answer.json()["items"]
        assert replica == {**failed.model_dump(), "node": "", "error": ""}


@pytest.mark.parametrize("body", [{}, {"nodes": 0}, {"nodes": -1}, {"nodes": 10_001}, {"nodes": "many"}, []])
async def test_a_number_that_is_none(gateway: Gateway, body: object) -> None:
    async with gateway.caller("admin") as http:
        response = await http.post("/api/v1/models/m/replicate", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


async def test_what_the_registry_refuses(gateway: Gateway) -> None:
    for error, status in ((InvalidRequest("only 1 nodes"), 400), (ModelNotFound(), 404)):

        def refuse(_query: ReplicateModel, error: Exception = error) -> None:
            raise error

        gateway.bus.answers[ReplicateModel] = refuse
        async with gateway.caller("admin") as http:
            response = await http.post("/api/v1/models/m/replicate", json={"nodes": 2})
        assert response.status_code == status


async def test_who_may(gateway: Gateway) -> None:
    async with gateway.caller("user") as http:
        response = await http.post("/api/v1/models/m/replicate", json={"nodes": 2})
    assert response.status_code == 403
    async with gateway.client() as nobody:
        assert (await nobody.get("/api/v1/models/m/replicas")).status_code == 401
