"""What all routes of the platform have in common: the document, the page, methods, refusals."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fixtures.gateway import a_gateway


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with a_gateway() as gateway, gateway.client() as http:
        yield http


async def test_the_page_loads_all_it_needs_from_here(http: httpx.AsyncClient) -> None:
    page = await http.get("/api/v1/docs")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    for each in loaded:
        response = await http.get(f"/api/v1/{each}")
        assert response.status_code == 200
        assert response.headers["content-type"].split(";")[0] in ("text/css", "text/javascript")
    assert "openapi.json" in (await http.get("/api/v1/docs/start.js")).text
    assert "://" not in page.text


async def test_the_page_may_run_its_own_scripts_only(http: httpx.AsyncClient) -> None:
    page = await http.get("/api/v1/docs")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert re.findall(r"<script>|onload=|<style", page.text) == []


@pytest.mark.parametrize("name", ["x", "__init__.py", "..%2Fmain.py", "%2e%2e/main.py"])
async def test_no_other_file_is_served(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/api/v1/docs/{name}")).status_code == 404


async def test_the_document_says_who_may_and_what_may_go_wrong(http: httpx.AsyncClient) -> None:
    document = (await http.get("/api/v1/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    put = document["paths"]["/api/v1/system/config"]["put"]
    assert (put["x-permission"], put["security"]) == ("cluster:manage", [{"bearer": []}, {"key": []}, {"basic": []}])
    assert {"200", "400", "401", "403", "412", "413", "429", "503"} <= set(put["responses"])
    version = document["paths"]["/api/v1/version"]["get"]
    assert (version["security"], "401" in version["responses"]) == ([], False)
    assert document["components"]["schemas"]["Error"]["required"] == ["error"]
    assert not any("422" in each["responses"] for path in document["paths"].values() for each in path.values())


async def test_a_refused_method_is_told_what_is_allowed(http: httpx.AsyncClient) -> None:
    refused = await http.patch("/api/v1/system/config")
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, HEAD, OPTIONS, PUT"
    asked = await http.options("/api/v1/system/config")
    assert (asked.status_code, asked.content, asked.headers["allow"]) == (204, b"", "GET, HEAD, OPTIONS, PUT")


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/", "/api/v1/nope", "/api/v1/users/%0A", "/api/v1/a%0Ab/c"])
async def test_what_is_not_there_is_refused_in_the_same_words(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path)
    assert response.status_code in (401, 404)
    assert set(response.json()["error"]) == {"code", "message", "request_id"}


async def test_head_is_get_without_a_body(http: httpx.AsyncClient) -> None:
    assert ((await http.head("/api/v1/version")).status_code, (await http.head("/api/v1/keys")).status_code) == (
        200,
        401,
    )


async def test_answers_are_not_kept_by_anybody(http: httpx.AsyncClient) -> None:
    for path in ("/api/v1/version", "/api/v1/keys", "/api/v1/nope"):
        assert (await http.get(path)).headers["cache-control"] == "no-store"
