from typing import Any

import pytest

from libs.common.contracts.gateway import ConfigVersion, SystemConfig
from services.gateway.api.guard import is_local_host
from tests.fixtures.gateway import a_gateway

CONTRACT_HEADERS = """
    Authorization Content-Type User-Agent Accept X-Requested-With OpenAI-Beta X-Stainless-Lang X-Stainless-OS
    X-Stainless-Arch X-Stainless-Retry-Count X-Api-Key Anthropic-Version Anthropic-Beta X-Request-Id If-Match
    Anthropic-Dangerous-Direct-Browser-Access Content-Encoding OpenAI-Organization OpenAI-Project X-Stainless-Helper
"""
EXPOSED = """
    X-Request-Id Request-Id Retry-After Retry-After-Ms RateLimit-Remaining X-RateLimit-Remaining-Requests
    X-RateLimit-Reset-Tokens Anthropic-RateLimit-Tokens-Limit Anthropic-RateLimit-Requests-Reset OpenAI-Processing-Ms
"""
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
    assert set(CONTRACT_HEADERS.split()) <= set(response.headers["access-control-allow-headers"].split(","))


async def test_scripts_of_browsers_may_read_what_sdks_read() -> None:
    response = await get({}, Origin="http://localhost:3000")
    assert set(EXPOSED.split()) <= set(response.headers["access-control-expose-headers"].split(","))


async def test_a_client_may_name_its_request_in_words_that_do_no_harm() -> None:
    for given, kept in (("a-client_id-1", True), ("short", False), ("a b c d e f", False), ("x" * 65, False)):
        answered = (await get({}, **{"X-Request-Id": given})).headers["x-request-id"]
        assert (answered == given) is kept


async def test_every_answer_is_safe_for_browsers() -> None:
    for headers in ({}, {"Origin": "null"}, {"Host": "e.example"}):
        answer = (await get({}, **headers)).headers
        assert answer["x-content-type-options"] == "nosniff"
        assert answer["x-frame-options"] == "DENY"
        assert answer["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer["content-security-policy"]
        assert "strict-transport-security" not in answer


async def test_behind_tls_browsers_are_told_to_stay_there() -> None:
    trusting = {"trusted_proxies": "127.0.0.0/8"}
    told = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
    assert "strict-transport-security" in (await get(trusting, **told)).headers
    assert "strict-transport-security" not in (await get({}, **told)).headers


async def test_a_proxys_word_does_not_open_the_door_to_a_foreign_host() -> None:
    told = {"Host": "evil.example", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost"}
    assert (await get({"trusted_proxies": "127.0.0.0/8"}, **told)).status_code == 403


async def test_too_many_headers() -> None:
    assert (await get({}, **{f"X-{number}": "1" for number in range(200)})).status_code == 431
    assert (await get({}, X="1" * 40_000)).status_code == 431


async def test_origins_are_changed_while_we_run() -> None:
    async with a_gateway() as gateway, gateway.client(Origin="https://new.example") as http:
        assert (await http.get("/api/version")).status_code == 403
        config = SystemConfig(origins=("https://new.example",))
        gateway.ctx.config.hear(ConfigVersion(version=2, config=config))
        assert (await http.get("/api/version")).status_code == 200


async def test_every_response_has_a_request_id() -> None:
    ids = {
        (await get({}, **headers)).headers["x-request-id"]
        for headers in ({}, {"Origin": "null"}, {"Host": "e.example"})
    }
    assert len(ids) == 3
