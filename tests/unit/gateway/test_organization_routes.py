"""Organizations, members, invitations, roles and keys over HTTP: who is let in, what auth is asked, what is refused."""

from typing import Any, NamedTuple

import httpx
import pytest

from libs.common.contracts.auth.identity import Limits, VerifyKey
from libs.common.contracts.auth.invitations import (
    AcceptInvitation,
    CreatedInvitation,
    CreateInvitation,
    Invitation,
    Joined,
    ListInvitations,
    WithdrawInvitation,
)
from libs.common.contracts.auth.keys import ApiKey, GetKey, ListKeys, UpdateKey
from libs.common.contracts.auth.members import AddMember, GetMember, ListMembers, Member, RemoveMember, UpdateMember
from libs.common.contracts.auth.organizations import (
    CreateOrganization,
    DeleteOrganization,
    GetOrganization,
    ListOrganizations,
    Organization,
    UpdateOrganization,
)
from libs.common.contracts.auth.roles import CreateRole, DeleteRole, GetRole, ListRoles, Role, UpdateRole
from libs.common.contracts.message import Message
from libs.common.contracts.paging import Page, PageRequest
from libs.common.contracts.permissions import Permission
from libs.common.errors import PreconditionFailed
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import Gateway

ID = "00000000-0000-0000-0000-000000000001"
MEMBER = Member(user_id=ID, email="a@b", role="user", joined_at=1.0, version=3)
ORGANIZATION = Organization(id="acme", name="Acme", created_at=1.0, version=3)
ROLE = Role(name="support", permissions=frozenset({"model:read"}), version=3)
OPEN = Invitation(id=ID, email="a@b", role="user", created_at=1.0, expires_at=2.0)
INVITATION = CreatedInvitation(**OPEN.model_dump(), token="omi_1")
KEY = ApiKey(id=ID, name="k", prefix="omx_1", created_at=1.0, version=3)
READS = frozenset({Permission.MODEL_READ})
TWO = PageRequest(limit=2)
RIGHTS: dict[str, Any] = {"permissions": ["model:read"], "models": ["m*"]}


class Case(NamedTuple):
    method: str
    path: str
    permission: Permission
    query: Message
    answer: Any = None
    body: dict[str, Any] | None = None
    status: int = 200


P, IN, MATCH = Permission, {"organization_id": "acme"}, {"expected_version": 3}
CASES = [
    Case("GET", "/organizations?limit=2", P.SELF_READ, ListOrganizations(paging=TWO), Page(items=(ORGANIZATION,))),
    Case(
        "POST",
        "/organizations",
        P.TENANT_MANAGE,
        CreateOrganization(id="acme", name="Acme"),
        ORGANIZATION,
        {"id": "acme", "name": "Acme"},
        201,
    ),
    Case("GET", "/organizations/acme", P.SELF_READ, GetOrganization(**IN), ORGANIZATION),
    Case(
        "PUT",
        "/organizations/acme",
        P.ORGANIZATION_MANAGE,
        UpdateOrganization(name="A", store_prompts=True, weight=2.0, **IN, **MATCH),
        ORGANIZATION,
        {"name": "A", "store_prompts": True, "weight": 2},
    ),
    Case("DELETE", "/organizations/acme", P.TENANT_MANAGE, DeleteOrganization(**IN, **MATCH), status=204),
    Case(
        "GET",
        "/organizations/acme/members?role=user&limit=2",
        P.USER_READ,
        ListMembers(role="user", paging=TWO, **IN),
        Page(items=(MEMBER,)),
    ),
    Case(
        "POST",
        "/organizations/acme/members",
        P.USER_MANAGE,
        AddMember(email="a@b", role="user", **IN),
        MEMBER,
        {"email": "a@b", "role": "user"},
        201,
    ),
    Case("GET", f"/organizations/acme/members/{ID}", P.USER_READ, GetMember(user_id=ID, **IN), MEMBER),
    Case(
        "PUT",
        f"/organizations/acme/members/{ID}",
        P.USER_MANAGE,
        UpdateMember(user_id=ID, role="user", **IN, **MATCH),
        MEMBER,
        {"role": "user"},
    ),
    Case(
        "DELETE",
        f"/organizations/acme/members/{ID}",
        P.USER_MANAGE,
        RemoveMember(user_id=ID, **IN, **MATCH),
        status=204,
    ),
    Case(
        "GET",
        "/organizations/acme/invitations?limit=2",
        P.USER_READ,
        ListInvitations(paging=TWO, **IN),
        Page(items=(OPEN,)),
    ),
    Case(
        "POST",
        "/organizations/acme/invitations",
        P.USER_MANAGE,
        CreateInvitation(email="a@b", role="user", **IN),
        INVITATION,
        {"email": "a@b", "role": "user"},
        201,
    ),
    Case(
        "DELETE",
        f"/organizations/acme/invitations/{ID}",
        P.USER_MANAGE,
        WithdrawInvitation(invitation_id=ID, **IN),
        status=204,
    ),
    Case(
        "POST",
        "/invitations/accept",
        P.SELF_MANAGE,
        AcceptInvitation(token="omi_1"),
        Joined(organization=ORGANIZATION, member=MEMBER),
        {"token": "omi_1"},
    ),
    Case("GET", "/organizations/acme/roles?limit=2", P.USER_READ, ListRoles(paging=TWO, **IN), Page(items=(ROLE,))),
    Case(
        "POST",
        "/organizations/acme/roles",
        P.ORGANIZATION_MANAGE,
        CreateRole(name="support", permissions=READS, models=("m*",), **IN),
        ROLE,
        {"name": "support", **RIGHTS},
        201,
    ),
    Case("GET", "/organizations/acme/roles/support", P.USER_READ, GetRole(name="support", **IN), ROLE),
    Case(
        "PUT",
        "/organizations/acme/roles/support",
        P.ORGANIZATION_MANAGE,
        UpdateRole(name="support", permissions=READS, models=("m*",), **IN, **MATCH),
        ROLE,
        RIGHTS,
    ),
    Case(
        "DELETE",
        "/organizations/acme/roles/support",
        P.ORGANIZATION_MANAGE,
        DeleteRole(name="support", **IN, **MATCH),
        status=204,
    ),
    Case("GET", f"/keys?user_id={ID}&limit=2", P.SELF_READ, ListKeys(user_id=ID, paging=TWO), Page(items=(KEY,))),
    Case("GET", "/keys?everybody=true", P.SELF_READ, ListKeys(user_id=None), Page(items=(KEY,))),
    Case("GET", f"/keys/{ID}", P.SELF_READ, GetKey(key_id=ID), KEY),
    Case(
        "PUT",
        f"/keys/{ID}",
        P.SELF_MANAGE,
        UpdateKey(key_id=ID, name="k", scopes=READS, limits=Limits(tokens_per_day=5), **MATCH),
        KEY,
        {"name": "k", "scopes": ["model:read"], "limits": {"tokens_per_day": 5}},
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.path.partition('?')[0]}")


def let_in(gateway: Gateway, *permissions: Permission) -> httpx.AsyncClient:
    gateway.bus.answers[VerifyKey] = lambda _: an_identity(key_id="k", permissions=frozenset(permissions))
    return gateway.client(Authorization="Bearer omx_good", **{"If-Match": '"3"'})


@each_case
async def test_auth_is_asked_for_who_has_the_permission(gateway: Gateway, case: Case) -> None:
    asked: list[Message] = []

    def answer(query: Message) -> Any:
        asked.append(query)
        return case.answer

    gateway.bus.answers[type(case.query)] = answer
    async with let_in(gateway, case.permission) as http:
        response = await http.request(case.method, f"/api/v1{case.path}", json=case.body)
    assert (response.status_code, asked) == (case.status, [case.query])
    tagged = hasattr(case.answer, "version")
    assert response.headers.get("etag") == ('"3"' if tagged else None)
    if case.answer is not None:
        assert response.json() == case.answer.model_dump(mode="json")


@each_case
async def test_nobody_else_is_let_in(gateway: Gateway, case: Case) -> None:
    others = [permission for permission in Permission if permission is not case.permission]
    async with let_in(gateway, *others) as http:
        response = await http.request(case.method, f"/api/v1{case.path}", json=case.body)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    assert gateway.bus.asked[type(case.query)] == 0


async def test_who_was_slower_is_told(gateway: Gateway) -> None:
    def slower(_query: UpdateRole) -> Role:
        raise PreconditionFailed

    gateway.bus.answers[UpdateRole] = slower
    async with let_in(gateway, *Permission) as http:
        response = await http.put("/api/v1/organizations/acme/roles/support", json=RIGHTS)
    assert (response.status_code, response.json()["error"]["code"]) == (412, "precondition_failed")


@pytest.mark.parametrize("organization", ["*", "ACME", "a" * 64, "-a", "a%00", "a%2Fb", "a b", "ü"])
@pytest.mark.parametrize("rest", ["", "/members", "/roles", "/invitations"])
async def test_what_is_no_organization(gateway: Gateway, organization: str, rest: str) -> None:
    async with let_in(gateway, *Permission) as http:
        response = await http.get(f"/api/v1/organizations/{organization}{rest}")
    assert response.status_code in {400, 404}
    assert set(gateway.bus.asked) <= {VerifyKey}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/organizations", {"name": ""}),
        ("/organizations", {"name": "x" * 101}),
        ("/organizations", {"name": "a\0b"}),
        ("/organizations", {"name": "a", "id": "*"}),
        ("/organizations", {"name": "a", "id": "UPPER"}),
        ("/organizations", {"name": "a", "description": "x" * 1001}),
        ("/organizations", {"name": "a", "store_prompts": "yes"}),
        ("/organizations", {"name": "a", "unknown": 1}),
        ("/organizations/acme/members", {"email": "a@b", "role": "No Role"}),
        ("/organizations/acme/members", {"email": "x" * 321, "role": "user"}),
        ("/organizations/acme/invitations", {"email": "a\0@b", "role": "user"}),
        ("/organizations/acme/roles", {"name": "Support", "permissions": []}),
        ("/organizations/acme/roles", {"name": "support", "permissions": ["model:paint"]}),
        ("/organizations/acme/roles", {"name": "support", "permissions": [], "models": [""]}),
        ("/organizations/acme/roles", {"name": "support", "permissions": [], "models": ["[a-z]"]}),
        ("/organizations/acme/roles", {"name": "support", "permissions": [], "models": ["m"] * 51}),
        ("/invitations/accept", {"token": ""}),
        ("/invitations/accept", {"token": "x" * 201}),
        ("/keys", {"name": "k", "scopes": "model:read"}),
        ("/keys", {"name": "k", "limits": {"tokens_per_day": 0}}),
        ("/keys", {"name": "k", "limits": {"tokens_per_day": 10**30}}),
        ("/keys", {"name": "k", "limits": {"tokens_per_year": 1}}),
        ("/keys", {"name": "k", "expires_at": True}),
    ],
)
async def test_bad_bodies(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    async with let_in(gateway, *Permission) as http:
        response = await http.post(f"/api/v1{path}", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert set(gateway.bus.asked) <= {VerifyKey}
