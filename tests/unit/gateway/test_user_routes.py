"""Routes of sessions and users: what they ask of auth, answer and refuse."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from libs.common.contracts.auth.identity import GetSigningKeys, IdentityChanged, SigningKeys
from libs.common.contracts.auth.sessions import (
    ActiveSession,
    EndSession,
    EndSessions,
    ListSessions,
    Login,
    Refresh,
    Register,
)
from libs.common.contracts.auth.users import (
    ChangePassword,
    CreatedUser,
    CreateUser,
    GetProfile,
    GetUser,
    ListUsers,
    LogOutUser,
    RemoveUser,
    UpdateProfile,
    UpdateUser,
)
from libs.common.contracts.paging import Page, PageRequest
from libs.common.errors import PreconditionFailed, RateLimited
from tests.fixtures.builders import a_session, a_user
from tests.fixtures.gateway import Gateway

ID = str(uuid4())
USER = a_user()
SESSION = a_session()
CREATED = CreatedUser(**USER.model_dump(), password="made")
ACTIVE = ActiveSession(
    id=ID, organization_id="o", ip="", user_agent="", created_at=1.0, last_used_at=1.0, expires_at=2.0, current=True
)
PAGE = PageRequest(limit=7, cursor="abc")
LOGIN = {"email": "a@b", "password": "p"}

PUBLIC_ROUTES: list[tuple[str, str, Any, Any, Any, int]] = [
    ("POST", "/auth/login", LOGIN, Login(**LOGIN), SESSION, 200),
    (
        "POST",
        "/auth/login",
        {**LOGIN, "code": "123456", "organization": "acme"},
        Login(**LOGIN, code="123456", organization_id="acme"),
        SESSION,
        200,
    ),
    ("POST", "/auth/refresh", {"refresh_token": "omr_1"}, Refresh(refresh_token="omr_1"), SESSION, 200),
    (
        "POST",
        "/auth/register",
        {**LOGIN, "name": "A", "invitation": "omi_1"},
        Register(**LOGIN, name="A", invitation="omi_1"),
        SESSION,
        201,
    ),
]
OWN_ROUTES: list[tuple[str, str, Any, Any, Any, int]] = [
    ("POST", "/auth/logout", None, EndSession(), None, 204),
    ("GET", "/auth/sessions?limit=7&cursor=abc", None, ListSessions(paging=PAGE), Page(items=(ACTIVE,)), 200),
    ("DELETE", "/auth/sessions", None, EndSessions(keep_current=True), None, 204),
    ("DELETE", f"/auth/sessions/{ID}", None, EndSession(session_id=ID), None, 204),
    ("POST", "/users/logout", None, EndSessions(), None, 204),
    ("POST", "/users/password", {"current": "p", "new": "q"}, ChangePassword(current="p", new="q"), None, 204),
]
MANAGED_ROUTES: list[tuple[str, str, Any, Any, Any, int]] = [
    (
        "GET",
        "/users?email=a&role=user&limit=7&cursor=abc",
        None,
        ListUsers(email="a", role="user", paging=PAGE),
        Page(items=(USER,)),
        200,
    ),
    ("POST", "/users", {"email": "a@b"}, CreateUser(email="a@b"), CREATED, 201),
    ("GET", f"/users/{ID}", None, GetUser(user_id=ID), USER, 200),
    ("PUT", f"/users/{ID}", {"disabled": True}, UpdateUser(user_id=ID, disabled=True), USER, 200),
    ("PUT", f"/users/{ID}", {"role": "x", "password": "q"}, UpdateUser(user_id=ID, role="x", password="q"), USER, 200),
    ("DELETE", f"/users/{ID}", None, RemoveUser(user_id=ID), None, 204),
    ("POST", f"/users/{ID}/logout", None, LogOutUser(user_id=ID), None, 204),
]


async def check(http: httpx.AsyncClient, gateway: Gateway, route: tuple[str, str, Any, Any, Any, int]) -> None:
    method, path, body, query, answer, status = route
    asked: list[Any] = []

    def answered(query: Any) -> Any:
        asked.append(query)
        return answer

    gateway.bus.answers[type(query)] = answered
    response = await http.request(method, f"/api/v1{path}", json=body)
    assert (response.status_code, asked) == (status, [query])
    assert response.content == b"" if answer is None else response.json() == answer.model_dump(mode="json")


@pytest.mark.parametrize("route", PUBLIC_ROUTES)
async def test_anybody_logs_in(gateway: Gateway, route: tuple[str, str, Any, Any, Any, int]) -> None:
    async with gateway.client() as http:
        await check(http, gateway, route)


@pytest.mark.parametrize("route", OWN_ROUTES)
async def test_everybody_has_an_account(gateway: Gateway, route: tuple[str, str, Any, Any, Any, int]) -> None:
    async with gateway.caller("user") as http:
        await check(http, gateway, route)
    async with gateway.client() as http:
        assert (await http.request(route[0], f"/api/v1{route[1]}", json=route[2])).status_code == 401


@pytest.mark.parametrize("route", MANAGED_ROUTES)
async def test_users_are_for_who_manages_them(gateway: Gateway, route: tuple[str, str, Any, Any, Any, int]) -> None:
    async with gateway.caller("admin") as http:
        await check(http, gateway, route)
    gateway.ctx.identities.forget(IdentityChanged(user_id="u"))
    async with gateway.caller("operator") as http:
        assert (await http.request(route[0], f"/api/v1{route[1]}", json=route[2])).status_code == 403


async def test_a_profile_says_what_one_may_do(gateway: Gateway) -> None:
    gateway.bus.answers[GetProfile] = gateway.bus.answers[UpdateProfile] = lambda _query: USER
    async with gateway.caller("user") as http:
        read = await http.get("/api/v1/users/profile")
        changed = await http.put("/api/v1/users/profile", json={"name": "Ada"})
    assert read.json() == changed.json()
    assert read.json() == {
        **USER.model_dump(),
        "permissions": ["inference:run", "model:read", "self:manage", "self:read"],
    }
    assert read.headers["etag"] == changed.headers["etag"] == '"2"'


async def test_who_has_read_an_old_version_changes_nothing(gateway: Gateway) -> None:
    def update(query: UpdateUser | UpdateProfile | RemoveUser) -> Any:
        if query.expected_version != 2:
            raise PreconditionFailed
        return None if isinstance(query, RemoveUser) else USER

    for message in (UpdateUser, UpdateProfile, RemoveUser):
        gateway.bus.answers[message] = update
    async with gateway.caller("admin") as http:
        for method, path in (("PUT", f"/users/{ID}"), ("PUT", "/users/profile"), ("DELETE", f"/users/{ID}")):
            body = {"name": "A"} if method == "PUT" else None
            for etag, status in (('"1"', 412), ('"2"', 200 if body else 204), ("2", 400)):
                response = await http.request(method, f"/api/v1{path}", json=body, headers={"If-Match": etag})
                assert response.status_code == status


async def test_a_lockout_says_when_to_come_back(gateway: Gateway) -> None:
    def locked(_query: Login) -> Any:
        raise RateLimited("too many failed attempts", retry_after=40)

    gateway.bus.answers[Login] = locked
    async with gateway.client() as http:
        response = await http.post("/api/v1/auth/login", json=LOGIN)
    assert (response.status_code, response.headers["retry-after"]) == (429, "40")
    assert response.json()["error"]["code"] == "rate_limited"


async def test_the_keys_are_published(gateway: Gateway) -> None:
    jwk = {"kty": "RSA", "kid": "k1", "n": "AQ", "e": "AQAB", "use": "sig", "alg": "RS256"}
    gateway.bus.answers[GetSigningKeys] = lambda _query: SigningKeys(keys=(jwk,))
    async with gateway.client() as http:
        responses = [await http.get("/api/v1/auth/jwks") for _ in range(5)]
    assert responses[0].json() == {"keys": [jwk]}
    assert responses[0].headers["cache-control"] == "public, max-age=300"
    assert gateway.bus.asked[GetSigningKeys] == 1, "strangers do not make us ask"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/auth/login", {"email": "a"}),
        ("POST", "/auth/login", {**LOGIN, "email": "a\0"}),
        ("POST", "/auth/login", {**LOGIN, "password": 1}),
        ("POST", "/auth/login", {**LOGIN, "organisation": "o"}),
        ("POST", "/auth/refresh", {"refresh_token": "x" * 201}),
        ("POST", "/auth/register", {**LOGIN, "name": "a\0"}),
        ("DELETE", "/auth/sessions/1", None),
        ("GET", "/auth/sessions?limit=0", None),
        ("GET", "/auth/sessions?cursor=%00", None),
        ("GET", "/users?role=%00", None),
        ("POST", "/users", {"email": ""}),
        ("POST", "/users", {"email": "a@b", "role": ""}),
        ("PUT", f"/users/{ID}", {"disabled": "yes"}),
        ("PUT", "/users/profile", {}),
        ("POST", "/users/password", {"current": "x" * 1025, "new": "y"}),
    ],
)
async def test_bad_requests(gateway: Gateway, method: str, path: str, body: Any) -> None:
    async with gateway.caller("admin") as http:
        response = await http.request(method, f"/api/v1{path}", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
