"""Two organizations: neither can see, change or guess anything of the other, on any route."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.fixtures.installation import API, Installation, Person
from tests.fixtures.suite import eventually

pytestmark = pytest.mark.e2e


@dataclass
class Tenant:
    """An admin, and what is there to be found: the values of path parameters, and what no list may show."""

    admin: Person
    path: dict[str, str]
    marks: list[str]


async def is_ready(admin: Person, model: str) -> bool:
    return bool((await admin.http.get(f"{API}/models/{model}")).json().get("status") == "ready")


async def furnish(installation: Installation, admin: Person) -> Tenant:
    organization = admin.organization
    mark = f"mark-of-{organization}"
    user = await admin.create(
        "/users", email=f"{mark}@example.com", name=mark, password="a good enough phrase", role="user"
    )
    key = await admin.create("/keys", name=mark)
    of_organization = f"/organizations/{organization}"
    role = await admin.create(f"{of_organization}/roles", name=mark, description=mark, permissions=["self:read"])
    invited = await admin.create(f"{of_organization}/invitations", email=f"{mark}-guest@example.com", role="user")
    answer = await admin.http.post(f"{API}/inference/generate", json={"model": "echo", "prompt": mark, "stream": False})
    assert answer.status_code == 200, answer.text
    await admin.create("/models", **{"name": mark, "from": "smollm2:135m"})
    await eventually(partial(is_ready, admin, mark), "its model is there", 30)
    limited = await admin.http.put(f"{API}/limits/key/{key['id']}", json={"requests_per_minute": 5})
    assert limited.status_code == 200, limited.text
    (session, *_) = (await admin.http.get(f"{API}/auth/sessions")).json()["items"]
    path = {
        "organization_id": organization,
        "user_id": user["id"],
        "key_id": key["id"],
        "name": role["name"],
        "invitation_id": invited["id"],
        "request_id": answer.headers["x-request-id"],
        "session_id": session["id"],
        "model": mark,
        "digest": "0" * 64,
        "scope": "key",
        "identifier": key["id"],
    }
    return Tenant(admin, path, [mark, user["id"], key["id"], invited["id"], answer.headers["x-request-id"]])


@pytest.fixture(scope="module")
async def tenants(installation: Installation) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """The organization that runs the installation, and another."""
    async with installation.admin() as root:
        await root.create("/organizations", id="other", name="Other")
        async with installation.admin("other") as founder, installation.newcomer(founder, "admin") as admin:
            yield await furnish(installation, root), await furnish(installation, admin)


BODIES: dict[str, dict[str, Any]] = {
    "PUT /users/{user_id}": {"name": "taken over"},
    "PUT /keys/{key_id}": {"name": "taken over"},
    "PUT /organizations/{organization_id}": {"name": "taken over"},
    "PUT /organizations/{organization_id}/second-factor-policy": {"roles": ["user"]},
    "PUT /limits/{scope}/{identifier}": {"requests_per_minute": 1},
    "PUT /limits/organization/{organization_id}": {"requests_per_minute": 1},
    "PUT /models/{model}": {"description": "taken over"},
    "POST /models/{model}/replicate": {"nodes": 1},
    "POST /organizations/{organization_id}/members": {"email": "admin@localhost", "role": "user"},
    "PUT /organizations/{organization_id}/members/{user_id}": {"role": "readonly"},
    "POST /organizations/{organization_id}/invitations": {"email": "spy@example.com", "role": "user"},
    "POST /organizations/{organization_id}/roles": {"name": "spies", "permissions": ["self:read"]},
    "PUT /organizations/{organization_id}/roles/{name}": {"permissions": ["self:read"]},
}


NEED_MORE = {
    "DELETE /organizations/{organization_id}",
    "PUT /limits/organization/{organization_id}",
    "DELETE /limits/organization/{organization_id}",
}
"""403 for an admin, whoever's they are: they take tenant:manage."""

OF_THE_OPERATOR = {"GET /users/{user_id}/export", "POST /users/{user_id}/erase"}
"""Who manages tenants answers to everybody whose data the installation has."""

ALL_FOR_THE_OPERATOR = {"/api/v1/system/audit", "/api/v1/system/audit/export"}
"""With cluster:manage the audit log is whole."""


async def item_routes(installation: Installation, known: set[str]) -> list[str]:
    """Every route whose path can be filled with what a tenant has."""
    async with installation.client() as http:
        paths = (await http.get(f"{API}/openapi.json")).json()["paths"]
    return [
        f"{method.upper()} {path.removeprefix(API)}"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if (names := {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"})
        and names <= known
    ]


async def refusals(asker: Person, routes: list[str], target: Tenant) -> dict[str, tuple[int, str]]:
    """Of each route that did not answer as if nothing were there."""
    wrong = {}
    for route in routes:
        method, path = route.split(" ")
        response = await asker.http.request(method, API + path.format(**target.path), json=BODIES.get(route))
        if response.status_code != 404:
            wrong[route] = (response.status_code, response.text)
    return wrong


async def test_what_another_organization_has_is_not_there(
    installation: Installation, tenants: tuple[Tenant, Tenant]
) -> None:
    """Its admin may do all that these routes need, but those of the installation."""
    default, other = tenants
    routes = await item_routes(installation, set(default.path))
    assert len(routes) > 30
    wrong = await refusals(other.admin, routes, default)
    assert {route: answer for route, answer in wrong.items() if "tenant:manage" not in answer[1]} == {}
    assert set(wrong) == NEED_MORE


async def test_who_manages_tenants_sees_their_members_but_not_what_they_do(
    installation: Installation, tenants: tuple[Tenant, Tenant]
) -> None:
    default, other = tenants
    routes = await item_routes(installation, set(default.path))
    inner = {route for route in routes if "{organization_id}" not in route} - OF_THE_OPERATOR
    assert len(inner) > 10
    assert await refusals(default.admin, sorted(inner), other) == {}


async def test_no_list_shows_what_is_elsewhere(installation: Installation, tenants: tuple[Tenant, Tenant]) -> None:
    async with installation.client() as http:
        paths = (await http.get(f"{API}/openapi.json")).json()["paths"]
    lists = [path for path, operations in paths.items() if "get" in operations and "{" not in path]
    default, other = tenants
    for asker, target, whole in ((default, other, ALL_FOR_THE_OPERATOR), (other, default, set[str]())):
        for path in set(lists) - whole:
            shown = (await asker.admin.http.get(path, params={"limit": 200})).text
            assert [mark for mark in target.marks if mark in shown] == [], path


async def test_everything_is_still_as_it_was(tenants: tuple[Tenant, Tenant]) -> None:
    for tenant in tenants:
        for path in ("/users/{user_id}", "/keys/{key_id}", "/organizations/{organization_id}/roles/{name}"):
            assert "mark-of" in (await tenant.admin.http.get(API + path.format(**tenant.path))).text
        listed = await tenant.admin.http.get(f"{API}/organizations/{tenant.admin.organization}/invitations")
        assert [each["id"] for each in listed.json()["items"]] == [tenant.path["invitation_id"]]
