"""Who may read the audit log, and what of refusals is told to it."""

import json

import pytest

from libs.common.contracts.auth.audit import AuditEntry, ListAudit, RecordAudit
from libs.common.contracts.auth.identity import VerifyKey
from libs.common.contracts.paging import Page
from libs.common.errors import Unauthenticated
from services.gateway.security_events import MOST, SecurityEvents
from tests.fixtures.builders import an_identity
from tests.fixtures.buses import eventually
from tests.fixtures.gateway import Gateway

ENTRY = AuditEntry(
    event_id="e", at=1.5, service="auth", action="users.update", seq=7, recorded_at=2.0, previous="00", hash="ff"
)


@pytest.fixture
def told(gateway: Gateway) -> list[RecordAudit]:
    events: list[RecordAudit] = []
    gateway.bus.answers[RecordAudit] = events.append
    return events


async def test_a_page_with_every_filter(gateway: Gateway) -> None:
    asked: list[ListAudit] = []

    def answer(query: ListAudit) -> Page[AuditEntry]:
        asked.append(query)
        return Page[AuditEntry](items=(ENTRY,), next_cursor="next")

    gateway.bus.answers[ListAudit] = answer
    wanted = {"user_id": "u", "action": "users.*", "object": "o", "request_id": "r", "ip": "::1"}
    wanted |= {"from": "1", "to": "2.5", "organization_id": "other", "limit": "3", "cursor": "abc"}
    async with gateway.caller("admin") as http:
        response = await http.get("/api/v1/system/audit", params=wanted)
    assert response.json() == {"items": [ENTRY.model_dump()], "next_cursor": "next"}
    (query,) = asked
    sent = query.filter.model_dump() | query.paging.model_dump()
    sent |= {"from": sent.pop("since"), "to": sent.pop("until")}
    assert {name: str(value).removesuffix(".0") for name, value in sent.items()} == wanted
    assert query.every_organization


async def test_an_admin_of_another_organization_sees_that_one(gateway: Gateway) -> None:
    def answer(query: ListAudit) -> Page[AuditEntry]:
        assert not query.every_organization
        return Page[AuditEntry](items=())

    gateway.bus.answers[ListAudit] = answer
    async with gateway.caller("admin", organization_id="acme", permissions=frozenset({"audit:read"})) as http:
        assert (await http.get("/api/v1/system/audit")).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/system/audit", "/api/v1/system/audit/export"])
async def test_who_may_read(gateway: Gateway, path: str) -> None:
    for role in ("operator", "user", "readonly"):
        async with gateway.caller(role) as http:
            assert (await http.get(path)).status_code == 403
    async with gateway.client() as http:
        assert (await http.get(path)).status_code == 401


@pytest.mark.parametrize("bad", ["from=nan", "to=1e300", "user_id=%00", "limit=0", f"object={'x' * 1001}"])
async def test_bad_filters(gateway: Gateway, bad: str) -> None:
    async with gateway.caller("admin") as http:
        assert (await http.get(f"/api/v1/system/audit?{bad}")).status_code == 400


async def test_the_export_is_all_pages_as_lines(gateway: Gateway) -> None:
    def answer(query: ListAudit) -> Page[AuditEntry]:
        assert query.oldest_first
        following = {"": "second", "second": "third", "third": None}[query.paging.cursor]
        return Page[AuditEntry](items=(ENTRY,), next_cursor=following)

    gateway.bus.answers[ListAudit] = answer
    async with gateway.caller("admin") as http:
        response = await http.get("/api/v1/system/audit/export")
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in response.text.splitlines()] == [ENTRY.model_dump()] * 3


async def test_a_caller_who_may_not_is_in_the_log(gateway: Gateway, told: list[RecordAudit]) -> None:
    async with gateway.caller("user") as http:
        http.headers.update({"Authorization": "Bearer omx_0123456789", "User-Agent": "tests"})
        for _ in range(3):
            refused = await http.get("/api/v1/system/audit?user_id=secret")
        await http.request("DELETE", "/api/delete", json={"model": "m"})
    await eventually(lambda: len(told) == 2)
    first, second = told
    identity = an_identity("user")
    assert (first.action, first.object) == ("access.denied", "GET /api/v1/system/audit")
    assert (first.user_id, first.organization_id) == (identity.user_id, identity.organization_id)
    assert (first.user_agent, first.after) == ("tests", {"status": 403, "credential": "omx_012345"})
    assert refused.headers["x-request-id"] != first.request_id, "only the first of the same is told"
    assert (second.action, second.object) == ("access.denied", "DELETE /api/delete")


async def test_bad_credentials_of_ours_are_in_the_log(gateway: Gateway, told: list[RecordAudit]) -> None:
    def refuse(_query: VerifyKey) -> None:
        raise Unauthenticated

    gateway.bus.answers[VerifyKey] = refuse
    for credential in ("omx_guessed-and-wrong", "eyJ.a.b", "sk-somebody-elses", ""):
        async with gateway.client(Authorization=f"Bearer {credential}") as http:
            assert (await http.get("/api/v1/keys")).status_code == 401
    await eventually(lambda: len(told) == 2)
    assert [event.action for event in told] == ["credentials.refused"] * 2
    assert [event.after for event in told] == [
        {"status": 401, "credential": "omx_guesse"},
        {"status": 401, "credential": "access token"},
    ]
    assert "guessed-and-wrong" not in repr(told)


async def test_a_flood_of_refusals_is_told_in_part(gateway: Gateway, told: list[RecordAudit]) -> None:
    events = SecurityEvents(gateway.ctx.bus, gateway.ctx.tasks)
    for number in range(MOST + 50):
        events.tell("access.denied", f"GET /{number}", status=403, credential="omx_012345")
    await eventually(lambda: len(gateway.ctx.tasks) == 0)
    assert len(told) == MOST


async def test_refusals_do_not_wait_for_the_log(gateway: Gateway) -> None:
    async with gateway.caller("user") as http:
        assert (await http.get("/api/v1/system/audit")).status_code == 403
    assert gateway.bus.asked[RecordAudit] <= 1, "nobody takes it, and the caller has its answer"
