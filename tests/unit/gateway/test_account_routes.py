"""Routes of the second factor and of a person's data: what they ask, answer and refuse."""

from typing import Any

import pytest

from libs.common.contracts.auth.privacy import EraseOwn, EraseUser, ExportUser, UserExport
from libs.common.contracts.auth.second_factor import (
    ActivateTotp,
    GetSecondFactor,
    GetSecondFactorPolicy,
    OfferedTotp,
    OfferTotp,
    PutSecondFactorPolicy,
    RecoveryCodes,
    RemoveTotp,
    RenewRecoveryCodes,
    ResetTotp,
    SecondFactor,
    SecondFactorPolicy,
)
from libs.common.contracts.exports import ExportedRows
from libs.common.errors import Forbidden, PreconditionFailed
from tests.fixtures.gateway import Gateway

USER = "5f2c9a3e-0000-4000-8000-000000000001"
OFFERED = OfferedTotp(secret="S", uri="otpauth://totp/x", qr_svg="<svg/>", qr_png="iVBO")
CODES = RecoveryCodes(codes=("a", "b"))
POLICY = SecondFactorPolicy(roles=("admin",), version=7)
NOTHING = ExportedRows()
EXPORT = UserExport(
    exported_at=1.0, profile={"id": USER}, memberships=NOTHING, invitations=NOTHING, sessions=NOTHING, keys=NOTHING,
    usage=NOTHING, audit=NOTHING, requests=NOTHING, exchanges=NOTHING, models=NOTHING,
)  # fmt: skip
BOTH = {"password": "p", "code": "123456"}
POLICY_PATH = "/organizations/o/second-factor-policy"

Route = tuple[str, str, Any, Any, Any, int]
"""Method, path, body, what auth is asked, what it answers, status."""

ROUTES: list[Route] = [
    ("GET", "/auth/totp", None, GetSecondFactor(), SecondFactor(active=True, required=False), 200),
    ("POST", "/auth/totp", {"password": "p"}, OfferTotp(password="p"), OFFERED, 201),
    ("POST", "/auth/totp/verify", {"code": "1"}, ActivateTotp(code="1"), CODES, 200),
    ("POST", "/auth/totp/recovery-codes", BOTH, RenewRecoveryCodes(**BOTH), CODES, 201),
    ("DELETE", "/auth/totp", BOTH, RemoveTotp(**BOTH), None, 204),
    ("DELETE", f"/users/{USER}/totp", None, ResetTotp(user_id=USER), None, 204),
    ("GET", POLICY_PATH, None, GetSecondFactorPolicy(organization_id="o"), POLICY, 200),
    ("GET", "/users/profile/export", None, ExportUser(), EXPORT, 200),
    ("GET", f"/users/{USER}/export", None, ExportUser(user_id=USER), EXPORT, 200),
    ("POST", "/users/profile/erase", {"password": "p"}, EraseOwn(password="p"), None, 204),
    ("POST", "/users/profile/erase", BOTH, EraseOwn(**BOTH), None, 204),
    ("POST", f"/users/{USER}/erase", None, EraseUser(user_id=USER), None, 204),
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1]}")
async def test_each_asks_auth_and_hands_on_what_it_says(gateway: Gateway, route: Route) -> None:
    method, path, body, query, answer, status = route
    asked: list[Any] = []

    def answered(query: Any) -> Any:
        asked.append(query)
        return answer

    gateway.bus.answers[type(query)] = answered
    async with gateway.caller("admin") as http:
        response = await http.request(method, f"/api/v1{path}", json=body)
    assert (response.status_code, asked) == (status, [query])
    assert response.content == b"" if answer is None else response.json() == answer.model_dump(mode="json")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1]}")
async def test_others_need_a_manager(gateway: Gateway, route: Route) -> None:
    method, path, body, query, answer, status = route
    gateway.bus.answers[type(query)] = lambda _query: answer
    own = not path.startswith(("/organizations", f"/users/{USER}"))
    async with gateway.caller("user") as http:
        response = await http.request(method, f"/api/v1{path}", json=body)
    assert response.status_code == (status if own else 403)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/auth/totp", {}),
        ("POST", "/auth/totp", {"password": 1}),
        ("POST", "/auth/totp", {"password": "x" * 1025}),
        ("POST", "/auth/totp/verify", {"code": 123456}),
        ("POST", "/auth/totp/verify", {"code": "1" * 101}),
        ("POST", "/auth/totp/verify", {"code": "12345\0"}),
        ("POST", "/auth/totp/verify", {"code": "123456", "more": 1}),
        ("DELETE", "/auth/totp", {"password": "p"}),
        ("DELETE", "/users/1/totp", None),
        ("POST", "/users/1/erase", None),
        ("GET", "/users/1/export", None),
        ("PUT", POLICY_PATH, {"roles": ["admin"] * 51}),
        ("PUT", POLICY_PATH, {"roles": [""]}),
        ("PUT", POLICY_PATH, {"roles": "admin"}),
        ("PUT", "/organizations/*/second-factor-policy", {"roles": []}),
    ],
)
async def test_bad_input(gateway: Gateway, method: str, path: str, body: Any) -> None:
    async with gateway.caller("admin") as http:
        response = await http.request(method, f"/api/v1{path}", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_policy_carries_its_version(gateway: Gateway) -> None:
    def put(query: PutSecondFactorPolicy) -> SecondFactorPolicy:
        if query.expected_version != 7:
            raise PreconditionFailed
        return SecondFactorPolicy(roles=query.roles, version=8)

    gateway.bus.answers[PutSecondFactorPolicy] = put
    gateway.bus.answers[GetSecondFactorPolicy] = lambda _query: POLICY
    async with gateway.caller("admin") as http:
        tag = (await http.get(f"/api/v1{POLICY_PATH}")).headers["etag"]
        changed = await http.put(f"/api/v1{POLICY_PATH}", json={"roles": ["user"]}, headers={"If-Match": tag})
        again = await http.put(f"/api/v1{POLICY_PATH}", json={"roles": []}, headers={"If-Match": '"6"'})
    assert (changed.json()["roles"], changed.headers["etag"]) == (["user"], '"8"')
    assert (again.status_code, again.json()["error"]["code"]) == (412, "precondition_failed")


async def test_what_is_refused_repeats_no_secret(gateway: Gateway) -> None:
    def refuse(_query: OfferTotp) -> None:
        raise Forbidden("wrong password")

    gateway.bus.answers[OfferTotp] = refuse
    async with gateway.caller("user") as http:
        wrong = await http.post("/api/v1/auth/totp", json={"password": "hunter2"})
        too_long = await http.post("/api/v1/auth/totp", json={"password": "hunter2" * 200})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (403, "wrong password")
    assert (too_long.status_code, "hunter2" in too_long.text) == (400, False)
