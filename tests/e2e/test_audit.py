"""What anybody does through any service comes to the one log, also while auth is away."""

import asyncio
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.fixtures.suite import ROOT, Suite, eventually

pytestmark = pytest.mark.e2e


async def entries(http: httpx.AsyncClient, **wanted: str) -> list[dict[str, Any]]:
    response = await http.get("/api/v1/system/audit", params=wanted)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["items"]
    return found


async def recorded(http: httpx.AsyncClient, **wanted: str) -> dict[str, Any]:
    """The newest of these, once there is one."""

    async def is_there() -> bool:
        return bool(await entries(http, **wanted))

    await eventually(is_there, f"{wanted} is in the log")
    return (await entries(http, **wanted))[0]


async def verify(suite: Suite) -> tuple[int, str]:
    command = [sys.executable, "-m", "services.auth.audit", "verify"]
    environment = suite.processes["auth"].environment
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode()


async def test_a_change_says_who_from_where_and_in_which_request(suite: Suite) -> None:
    async with suite.admin() as http:
        made = await http.post("/api/v1/keys", json={"name": "audited"}, headers={"User-Agent": "an auditor"})
        entry = await recorded(http, object=made.json()["id"], action="api_keys.insert")
        profile = (await http.get("/api/v1/users/profile")).json()
    assert (entry["user_id"], entry["organization_id"]) == (profile["id"], "default")
    assert (entry["ip"], entry["user_agent"]) == ("127.0.0.1", "an auditor")
    assert entry["request_id"] == made.headers["x-request-id"]
    assert (entry["before"], entry["after"]["name"], entry["after"]["digest"]) == (None, "audited", "***")


async def test_a_refused_key_is_in_the_log(suite: Suite) -> None:
    async with httpx.AsyncClient(base_url=suite.url, headers={"x-api-key": "omx_nobodys-key"}, timeout=30) as http:
        assert (await http.get("/api/v1/models")).status_code == 401
    async with suite.admin() as http:
        entry = await recorded(http, action="credentials.refused", object="GET /api/v1/models")
    assert entry["after"] == {"status": 401, "credential": "omx_nobody"}


async def test_what_happens_while_auth_is_away_is_recorded_when_it_is_back(suite: Suite) -> None:
    name = "audited:latest"
    async with suite.admin() as http:
        assert (await http.get("/api/tags")).status_code == 200
        suite.processes["auth"].kill()
        try:
            created = await http.post("/api/copy", json={"source": "smollm2:135m", "destination": name}, timeout=60)
            assert created.status_code == 200, created.text
            deleted = await http.request("DELETE", "/api/delete", json={"model": name})
            assert deleted.status_code == 200, deleted.text
        finally:
            await suite.start("auth")
        request_id = deleted.headers["x-request-id"]

        async def is_recorded() -> bool:
            newest = await entries(http, action="models.delete")
            return any(entry["request_id"] == request_id and entry["user_id"] for entry in newest)

        await eventually(is_recorded, "the deletion is in the log")
    status, said = await verify(suite)
    assert status == 0, said


async def test_every_service_with_tables_tells_its_changes(suite: Suite) -> None:
    async with suite.admin() as http:
        for action in ("users.insert", "models.insert", "nodes.insert"):
            assert (await recorded(http, action=action))["seq"] > 0
