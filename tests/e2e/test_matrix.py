"""Who may call what: every route of the platform, asked by everybody, allows exactly the cells that this table says."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from libs.common.contracts.permissions import INSTALLATION, ROLES, Permission
from tests.fixtures.installation import API, Installation, Person

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
"""The first one waits for servers and services, too."""

PUBLIC = None

ROUTES: dict[str, str | None] = {
    "POST /auth/login": PUBLIC,
    "POST /auth/register": PUBLIC,
    "POST /auth/refresh": PUBLIC,
    "GET /auth/jwks": PUBLIC,
    "GET /version": PUBLIC,
    "GET /auth/sessions": "self:read",
    "DELETE /auth/sessions/{session_id}": "self:manage",
    "GET /auth/totp": "self:read",
    "POST /auth/totp": "self:manage",
    "POST /auth/totp/verify": "self:manage",
    "POST /auth/totp/recovery-codes": "self:manage",
    "DELETE /auth/totp": "self:manage",
    "GET /users/profile": "self:read",
    "PUT /users/profile": "self:manage",
    "GET /users/profile/export": "self:read",
    "POST /users/profile/erase": "self:manage",
    "POST /users/password": "self:manage",
    "GET /users": "user:read",
    "POST /users": "user:manage",
    "GET /users/{user_id}": "user:read",
    "PUT /users/{user_id}": "user:manage",
    "DELETE /users/{user_id}": "user:manage",
    "POST /users/{user_id}/logout": "user:manage",
    "DELETE /users/{user_id}/totp": "user:manage",
    "GET /users/{user_id}/export": "user:manage",
    "POST /users/{user_id}/erase": "user:manage",
    "GET /keys": "self:read",
    "POST /keys": "self:manage",
    "GET /keys/{key_id}": "self:read",
    "PUT /keys/{key_id}": "self:manage",
    "DELETE /keys/{key_id}": "self:manage",
    "GET /organizations": "self:read",
    "POST /organizations": "tenant:manage",
    "GET /organizations/{organization_id}": "self:read",
    "PUT /organizations/{organization_id}": "organization:manage",
    "DELETE /organizations/{organization_id}": "tenant:manage",
    "GET /organizations/{organization_id}/second-factor-policy": "organization:manage",
    "PUT /organizations/{organization_id}/second-factor-policy": "organization:manage",
    "GET /organizations/{organization_id}/members": "user:read",
    "POST /organizations/{organization_id}/members": "user:manage",
    "GET /organizations/{organization_id}/members/{user_id}": "user:read",
    "PUT /organizations/{organization_id}/members/{user_id}": "user:manage",
    "DELETE /organizations/{organization_id}/members/{user_id}": "user:manage",
    "GET /organizations/{organization_id}/invitations": "user:read",
    "POST /organizations/{organization_id}/invitations": "user:manage",
    "DELETE /organizations/{organization_id}/invitations/{invitation_id}": "user:manage",
    "POST /invitations/accept": "self:manage",
    "GET /organizations/{organization_id}/roles": "user:read",
    "POST /organizations/{organization_id}/roles": "organization:manage",
    "GET /organizations/{organization_id}/roles/{name}": "user:read",
    "PUT /organizations/{organization_id}/roles/{name}": "organization:manage",
    "DELETE /organizations/{organization_id}/roles/{name}": "organization:manage",
    "POST /inference/chat": "inference:run",
    "POST /inference/generate": "inference:run",
    "GET /inference/requests": "self:read",
    "GET /inference/requests/{request_id}": "self:read",
    "DELETE /inference/requests/{request_id}": "self:manage",
    "GET /inference/requests/{request_id}/stream": "inference:run",
    "GET /models": "model:read",
    "POST /models": "model:manage",
    "GET /models/{model}": "model:read",
    "PUT /models/{model}": "model:manage",
    "DELETE /models/{model}": "model:manage",
    "GET /models/{model}/versions": "model:read",
    "POST /models/{model}/versions/{digest}/restore": "model:manage",
    "GET /models/{model}/replicas": "model:read",
    "POST /models/{model}/replicate": "model:manage",
    "GET /models/{model}/usage": "self:read",
    "GET /usage": "self:read",
    "GET /limits": "organization:manage",
    "GET /limits/mine": "self:read",
    "GET /limits/organization/{organization_id}": "organization:manage",
    "PUT /limits/organization/{organization_id}": "tenant:manage",
    "DELETE /limits/organization/{organization_id}": "tenant:manage",
    "GET /limits/{scope}/{identifier}": "organization:manage",
    "PUT /limits/{scope}/{identifier}": "organization:manage",
    "DELETE /limits/{scope}/{identifier}": "organization:manage",
    "GET /queue": "self:read",
    "GET /nodes": "node:read",
    "GET /nodes/{node_id}": "node:read",
    "PUT /nodes/{node_id}": "node:manage",
    "DELETE /nodes/{node_id}": "node:manage",
    "GET /nodes/{node_id}/health": "node:read",
    "POST /nodes/{node_id}/drain": "node:manage",
    "POST /nodes/{node_id}/resume": "node:manage",
    "GET /system/stats": "cluster:read",
    "GET /system/config": "cluster:read",
    "PUT /system/config": "cluster:manage",
    "GET /system/config/history": "cluster:read",
    "GET /system/audit": "audit:read",
    "GET /system/audit/export": "audit:read",
    # They end the session of who asks, so they come last.
    "DELETE /auth/sessions": "self:manage",
    "POST /auth/logout": "self:manage",
    "POST /users/logout": "self:manage",
}
ENDING = ("POST /auth/logout", "POST /users/logout")

OF_NOBODY = "00000000-0000-0000-0000-000000000000"
UNKNOWN = {
    "user_id": OF_NOBODY,
    "key_id": OF_NOBODY,
    "session_id": OF_NOBODY,
    "invitation_id": OF_NOBODY,
    "request_id": "0" * 32,
    "node_id": "nowhere",
    "name": "nobody",
    "model": "nothing:latest",
    "digest": "0" * 64,
    "scope": "user",
    "identifier": OF_NOBODY,
}
"""What is not there: whoever may ask hears 404 or 400, and nothing changes."""

CUSTOM = {"self:read", "usage:read", "request:read"}
SCOPE = {"node:read"}


@dataclass
class Caller:
    http: httpx.AsyncClient
    organization: str
    may: set[str]
    person: Person | None = None
    """None for who has no session that could end."""


@asynccontextmanager
async def everybody(installation: Installation) -> AsyncIterator[dict[str, Caller]]:
    everything = {permission.value for permission in Permission}
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(installation.admin())
        await admin.create("/organizations/default/roles", name="auditor", permissions=sorted(CUSTOM))
        await admin.create("/organizations", id="acme", name="Acme")
        founder = await stack.enter_async_context(installation.admin("acme"))
        callers = {"admin": Caller(admin.http, "default", everything, admin)}
        for role in ("operator", "user", "readonly", "auditor"):
            person = await stack.enter_async_context(installation.newcomer(admin, role))
            may = {permission.value for permission in ROLES[role]} if role in ROLES else CUSTOM
            callers[role] = Caller(person.http, "default", may, person)
        other = await stack.enter_async_context(installation.newcomer(founder, "admin"))
        callers["admin of acme"] = Caller(other.http, "acme", everything - set(INSTALLATION), other)
        key = (await admin.create("/keys", name="one scope", scopes=sorted(SCOPE)))["key"]
        keyed = await stack.enter_async_context(installation.client(Authorization=f"Bearer {key}"))
        callers["key with one scope"] = Caller(keyed, "default", SCOPE)
        callers["nobody"] = Caller(await stack.enter_async_context(installation.client()), "default", set())
        yield callers


@pytest.fixture(scope="module")
async def callers(installation: Installation) -> AsyncIterator[dict[str, Caller]]:
    async with everybody(installation) as callers:
        yield callers


async def test_the_table_has_every_route(installation: Installation) -> None:
    async with installation.client() as http:
        document = (await http.get(f"{API}/openapi.json")).json()
    documented = {
        f"{method.upper()} {path.removeprefix(API)}": operation.get("x-permission")
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert documented == ROUTES


def expected(caller: Caller, permission: str | None) -> str:
    if permission is PUBLIC or permission in caller.may:
        return "allowed"
    return "forbidden" if "Authorization" in caller.http.headers else "unauthenticated"


def answered(route: str, response: httpx.Response) -> str:
    if response.status_code == 401 and ROUTES[route] is not PUBLIC:
        return "unauthenticated"
    if response.status_code == 403 and "needs the permission" in response.text:
        return "forbidden"
    return "allowed" if response.status_code < 500 else response.text


WHO = ("admin", "operator", "user", "readonly", "auditor", "admin of acme", "key with one scope", "nobody")


@pytest.mark.parametrize("who", WHO)
async def test_exactly_the_allowed_cells(callers: dict[str, Caller], who: str) -> None:
    caller = callers[who]
    wrong = {}
    for route, permission in ROUTES.items():
        method, path = route.split(" ")
        body: Any = None if method in ("GET", "DELETE") else {}
        path = path.format(organization_id=caller.organization, **UNKNOWN)
        response = await caller.http.request(method, API + path, json=body)
        cell = answered(route, response)
        if cell != expected(caller, permission):
            wrong[route] = (cell, expected(caller, permission))
        if route in ENDING and caller.person is not None:
            await caller.person.log_in()
    assert wrong == {}
