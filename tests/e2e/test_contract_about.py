"""The routes that clients probe first, and those of an ollama.com account that nobody has here."""

import re

import httpx
import pytest

from tests.e2e.contract import Case, check, refused, table

pytestmark = pytest.mark.e2e

CLOUD_IS_OFF = re.compile(r"ollama cloud is disabled: .*")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_home(http: httpx.AsyncClient, method: str) -> None:
    response = await http.request(method, "/")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == ("Ollama is running" if method == "GET" else "")


@pytest.mark.parametrize("path", ["/api/version", "/api/tags"])
async def test_head_has_no_body(http: httpx.AsyncClient, path: str) -> None:
    response = await http.head(path)
    assert (response.status_code, response.content) == (200, b"")


@table(
    Case("version is a number", "GET /api/version", b"", 200, {"version": re.compile(r"\d+\.\d+\.\d+")}),
    Case("cloud is off", "GET /api/status", b"", 200, {"cloud": {"disabled": True, "source": str}}),
    Case("nothing to recommend", "GET /api/experimental/model-recommendations", b"", 200, {"recommendations": list}),
    refused("search needs a body", "POST /api/experimental/web_search", b"", 400, "missing request body"),
    refused("fetch needs a body", "POST /api/experimental/web_fetch", b"", 400, "missing request body"),
    refused("search is of the cloud", "POST /api/experimental/web_search", {"query": "a"}, 403, CLOUD_IS_OFF),
    refused("fetch is of the cloud", "POST /api/experimental/web_fetch", {"url": "a"}, 403, CLOUD_IS_OFF),
    Case("a model of the cloud", "POST /api/chat", {"model": "a:cloud"}, 403, {"error": CLOUD_IS_OFF}),
    Case("a tag of the cloud", "POST /api/generate", {"model": "a:1b-cloud"}, 403, {"error": CLOUD_IS_OFF}),
    refused(
        "both sources",
        "POST /api/generate",
        {"model": "a:local:cloud"},
        400,
        re.compile('use either :local or :cloud, not both: "a:local:cloud"'),
    ),
)
async def test_about(http: httpx.AsyncClient, case: Case) -> None:
    await check(http, case)


@pytest.mark.parametrize(
    ("call", "status", "error"),
    [
        ("POST /api/me", 503, "account unavailable"),
        ("POST /api/signout", 401, "you are not currently signed in"),
        ("DELETE /api/user/keys/a2V5", 401, "you are not currently signed in"),
    ],
)
async def test_there_is_no_account(http: httpx.AsyncClient, call: str, status: int, error: str) -> None:
    method, path = call.split(" ")
    response = await http.request(method, path)
    assert (response.status_code, response.json()) == (status, {"error": error})
