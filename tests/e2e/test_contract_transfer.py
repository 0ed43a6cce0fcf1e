"""POST /api/pull and /api/push. The gateway is its own counterpart: it is a registry too."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.e2e.contract import JSON, MODEL, NDJSON, PLAIN_JSON, Case, assert_matches, check, refused, stream, table
from tests.fixtures.suite import Suite

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]

PULL, PUSH, COPY = "POST /api/pull", "POST /api/push", "POST /api/copy"
MISSING = "pull model manifest: file does not exist"
LAYER = re.compile("(pulling|pushing) [0-9a-f]{12}")


@pytest.fixture
async def elsewhere(http: httpx.AsyncClient, suite: Suite) -> AsyncIterator[str]:
    """The name of a model that another registry, this gateway, has as ``team/kept``; there is no copy of it here."""
    host = f"127.0.0.1:{suite.gateway_port}"
    await check(http, Case("", COPY, {"source": MODEL, "destination": "team/kept"}))
    yield f"http://{host}/team/kept"
    for name in ("team/kept", f"{host}/team/kept", f"{host}/team/pushed", "team/pushed"):
        await http.request("DELETE", "/api/delete", json={"model": name})


def statuses(lines: list[dict[str, Any]]) -> list[str]:
    """Each status once, in the order in which they first came."""
    return list(dict.fromkeys(line["status"] for line in lines))


def assert_progress(lines: list[dict[str, Any]]) -> None:
    """Every layer is told with digest and size, never goes back and ends complete."""
    layers: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if LAYER.fullmatch(line["status"]):
            assert_matches(line, {"digest": re.compile("sha256:[0-9a-f]{64}"), "total": int})
            assert line["status"].split()[1] == line["digest"].removeprefix("sha256:")[:12]
            layers.setdefault(line["digest"], []).append(line)
    assert layers
    for told in layers.values():
        completed = [line.get("completed", 0) for line in told]
        assert completed == sorted(completed)
        assert completed[-1] == told[-1]["total"]


class TestPull:
    async def test_streamed(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        lines = await stream(http, PULL, {"model": elsewhere, "insecure": True})
        told = [status for status in statuses(lines) if not LAYER.fullmatch(status)]
        assert told[:1] + told[-3:] == ["pulling manifest", "verifying sha256 digest", "writing manifest", "success"]
        assert lines[-1] == {"status": "success"}
        assert_progress(lines)

    async def test_whole(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        """``name`` is what ollama-js sends."""
        response = await http.post("/api/pull", json={"name": elsewhere, "insecure": True, "stream": False})
        assert response.headers["content-type"] == PLAIN_JSON
        assert response.json() == {"status": "success"}

    async def test_what_was_pulled_is_the_same_and_can_be_used(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        await stream(http, PULL, {"model": elsewhere, "insecure": True})
        name = f"{elsewhere.removeprefix('http://')}:latest"
        digests = {model["name"]: model["digest"] for model in (await http.get("/api/tags")).json()["models"]}
        assert digests[name] == digests["team/kept:latest"]
        body = {"model": name, "prompt": "a", "stream": False, "options": {"num_predict": 1}}
        await check(http, Case("", "POST /api/generate", body, 200, {"model": name, "eval_count": 1}))

    async def test_unknown_model_streamed(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        lines = await stream(http, PULL, {"model": elsewhere.replace("kept", "nothing"), "insecure": True})
        assert lines == [{"status": "pulling manifest"}, {"error": MISSING}]

    async def test_unknown_model_whole(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        body = {"model": elsewhere.replace("kept", "nothing"), "insecure": True, "stream": False}
        response = await http.post("/api/pull", json=body)
        assert (response.status_code, response.json()) == (500, {"error": MISSING})

    async def test_plain_http_only_when_it_is_said(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        response = await http.post("/api/pull", json={"model": elsewhere, "stream": False})
        assert response.status_code >= 400
        assert "error" in response.json()

    async def test_missing_base_models_are_pulled(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        """``create`` tells of the pull in its own stream. Plain http is not for it: the host refuses TLS."""
        lines = await stream(http, "POST /api/create", {"model": "made", "from": elsewhere.removeprefix("http://")})
        assert lines[0] == {"status": "pulling manifest"}
        assert list(lines[-1]) == ["error"]


class TestPush:
    async def test_streamed(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        name = elsewhere.replace("kept", "pushed").removeprefix("http://")
        await check(http, Case("", COPY, {"source": MODEL, "destination": name}))
        lines = await stream(http, PUSH, {"model": f"http://{name}", "insecure": True})
        told = [status for status in statuses(lines) if not LAYER.fullmatch(status)]
        assert told == ["retrieving manifest", "pushing manifest", "success"]
        assert_progress(lines)
        await check(http, Case("", "POST /api/show", {"model": "team/pushed"}, 200, {"model_info": dict}))

    async def test_whole(self, http: httpx.AsyncClient, elsewhere: str) -> None:
        name = elsewhere.replace("kept", "pushed").removeprefix("http://")
        await check(http, Case("", COPY, {"source": MODEL, "destination": name}))
        body = {"name": f"http://{name}", "insecure": True, "stream": False}
        response = await http.post("/api/push", json=body)
        assert (response.headers["content-type"], response.json()) == (PLAIN_JSON, {"status": "success"})

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_unknown_model(self, http: httpx.AsyncClient, streamed: bool) -> None:
        response = await http.post("/api/push", json={"model": "team/nothing", "stream": streamed})
        assert response.headers["content-type"] in {JSON, PLAIN_JSON, NDJSON}
        assert "error" in response.text


@table(
    refused("nothing to pull", PULL, {}, 400, "invalid model name"),
    refused("malformed to pull", PULL, {"model": "a b"}, 400, "invalid model name"),
    refused("nothing to push", PUSH, {}, 400, "model is required"),
    refused("pull out of the directory", PULL, {"model": "../../etc"}, 400, "invalid model name"),
)
async def test_refusals(http: httpx.AsyncClient, case: Case) -> None:
    await check(http, case)
