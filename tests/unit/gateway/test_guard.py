from typing import Any

import pytest

from services.gateway.api.guard import is_local_host
from tests.fixtures.gateway import a_gateway

LOCAL_HOSTS = """
    localhost LOCALHOST:11434 127.0.0.1:11434 [::1]:11434 ::1 0.0.0.0 192.168.1.5:80 10.0.0.1
    box.local gateway.internal:11434 a.localhost
"""


@pytest.mark.parametrize("host", ["", *LOCAL_HOSTS.split()])
def test_local_hosts(host: str) -> None:
    assert is_local_host(host)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:11434", "8.8.8.8", "localhost.evil.example", "a:b:c"])
def test_foreign_hosts(host: str) -> None:
    assert not is_local_host(host)


async def get(settings: dict[str, Any], method: str = "GET", **headers: str) -> Any:
    async with a_gateway(**settings) as gateway, gateway.client(**headers) as http:
        return await http.request(method, "/api/version")


async def test_a_foreign_host_is_refused_on_loopback_only() -> None:
    refused = await get({}, Host="evil.example")
    assert (refused.status_code, refused.content) == (403, b"")
    assert (await get({"host": "0.0.0.0"}, Host="ollama.example")).status_code == 200


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "tauri://localhost", "app://x"])
async def test_local_origins_are_welcome(origin: str) -> None:
    response = await get({}, Origin=origin)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null"])
async def test_foreign_origins_are_refused(origin: str) -> None:
    response = await get({}, Origin=origin)
    assert (response.status_code, response.content) == (403, b"")
    assert "access-control-allow-origin" not in response.headers


async def test_the_same_host_is_no_foreign_origin() -> None:
    response = await get({"host": "0.0.0.0"}, Host="chat.example", Origin="https://chat.example")
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


async def test_more_origins_by_setting() -> None:
    allowed: dict[str, Any] = {"origins": "https://*.corp.example, https://one.example"}
    for origin in ("https://chat.corp.example", "https://one.example"):
        assert (await get(allowed, Origin=origin)).status_code == 200
    assert (await get(allowed, Origin="https://two.example")).status_code == 403
    anyone = await get({"origins": "*"}, Origin="https://two.example")
    assert anyone.headers["access-control-allow-origin"] == "*"


async def test_preflight() -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    response = await get({}, "OPTIONS", **headers)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-max-age"] == "43200"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "X-Api-Key" in response.headers["access-control-allow-headers"]


async def test_every_response_has_a_request_id() -> None:
    ids = {
        (await get({}, **headers)).headers["x-request-id"]
        for headers in ({}, {"Origin": "null"}, {"Host": "e.example"})
    }
    assert len(ids) == 3
