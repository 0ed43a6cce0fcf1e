"""What holds on every route: bodies as Go reads them, errors, redirects, media types."""

import json

import httpx
import pytest

from tests.e2e.contract import ANY, CREATED_AT, JSON, MODEL, NDJSON, Case, check, refused, send, stream, table

pytestmark = pytest.mark.e2e

GENERATE, CHAT = "POST /api/generate", "POST /api/chat"
BODIES = [
    *(f"POST /api/{name}" for name in ("generate", "chat", "embed", "embeddings", "show", "create", "copy")),
    *("POST /api/pull", "POST /api/push", "DELETE /api/delete"),
]
ECHO = {"model": "echo", "prompt": "a", "stream": False, "options": {"num_predict": 1}}
ANSWER = {"response": "w0", "done": True}
NO_TYPE_MATCH = r"json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool"


@pytest.mark.parametrize("call", BODIES)
async def test_an_empty_body_is_refused(http: httpx.AsyncClient, call: str) -> None:
    await check(http, refused("", call, b"", 400, "missing request body"))


@pytest.mark.parametrize("call", BODIES)
async def test_what_is_no_json_is_refused(http: httpx.AsyncClient, call: str) -> None:
    await check(http, Case("", call, b"{model", 400, {"error": str}))


@table(
    Case("the content type is not looked at", GENERATE, ECHO, 200, ANSWER, {"content-type": "text/plain"}),
    Case("curl's own content type", GENERATE, ECHO, 200, ANSWER, {"content-type": "application/x-www-form-urlencoded"}),
    Case("unknown fields are ignored", GENERATE, {**ECHO, "width": 1, "nonsense": [{}]}, 200, ANSWER),
    Case("keys match in any case", GENERATE, {"MODEL": "echo", "Prompt": "a", "sTREAM": False}, 200, {"done": True}),
    Case("the last duplicate wins", GENERATE, f'{{"model":"no",{json.dumps(ECHO)[1:]}', 200, ANSWER),
    Case("null is unset", GENERATE, {**ECHO, "format": None, "keep_alive": None, "system": None}, 200, ANSWER),
    Case("bytes after the value are ignored", GENERATE, json.dumps(ECHO) + "\n}trailing", 200, ANSWER),
    Case("unknown options are ignored", GENERATE, {**ECHO, "options": {"numa": 1, "num_predict": 1}}, 200, ANSWER),
    Case("an option may be null", GENERATE, {**ECHO, "options": {"seed": None, "num_predict": 1}}, 200, ANSWER),
    Case("an option may be a float", GENERATE, {**ECHO, "options": {"num_predict": 1.0}}, 200, ANSWER),
    Case("half a surrogate pair is replaced", GENERATE, '{"model":"echo","prompt":"\\ud800","stream":false}', 200, ANY),
    refused("a wrong type is refused", GENERATE, {**ECHO, "stream": "yes"}, 400, NO_TYPE_MATCH),
)
async def test_bodies(http: httpx.AsyncClient, case: Case) -> None:
    await check(http, case)


@pytest.mark.parametrize("call", ["GET /nothing", "POST /nothing", "GET /api", "HEAD /api/nothing"])
async def test_unknown_paths(http: httpx.AsyncClient, call: str) -> None:
    response = await send(http, Case("", call))
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == ("" if call.startswith("HEAD") else "404 page not found")


@pytest.mark.parametrize(
    "call",
    ["GET /api/chat", "POST /api/tags", "PUT /api/generate", "HEAD /api/ps", "GET /api/pull", "POST /api/delete"],
)
async def test_wrong_methods(http: httpx.AsyncClient, call: str) -> None:
    response = await send(http, Case("", call))
    assert response.status_code == 405
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == ("" if call.startswith("HEAD") else "405 method not allowed")


@pytest.mark.parametrize(("call", "status"), [("GET /api/tags/", 301), ("POST /api/chat/", 307)])
async def test_a_slash_too_many_is_redirected(http: httpx.AsyncClient, call: str, status: int) -> None:
    response = await send(http, Case("", call))
    assert response.status_code == status
    assert httpx.URL(response.headers["location"]).path == call.split(" ")[1].rstrip("/")


@pytest.mark.parametrize("body", [{"prompt": "a"}, {"messages": [{"role": "user", "content": "a"}]}])
class TestStreams:
    """Both of generate's and chat's answers, in both forms."""

    def call(self, body: dict[str, object]) -> str:
        return GENERATE if "prompt" in body else CHAT

    async def test_stream_is_the_default(self, http: httpx.AsyncClient, body: dict[str, object]) -> None:
        lines = await stream(http, self.call(body), {"model": "echo", "options": {"num_predict": 3}, **body})
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        assert all(CREATED_AT.fullmatch(line["created_at"]) for line in lines)
        assert {line["model"] for line in lines} == {"echo"}

    async def test_accept_does_not_choose(self, http: httpx.AsyncClient, body: dict[str, object]) -> None:
        case = Case("", self.call(body), {"model": "echo", **body}, headers={"accept": "application/json"})
        assert (await send(http, case)).headers["content-type"] == NDJSON

    async def test_whole(self, http: httpx.AsyncClient, body: dict[str, object]) -> None:
        response = await send(http, Case("", self.call(body), {"model": "echo", "stream": False, **body}))
        assert response.headers["content-type"] == JSON
        assert response.json()["done"] is True

    async def test_an_error_before_the_first_line_has_its_status(
        self, http: httpx.AsyncClient, body: dict[str, object]
    ) -> None:
        await check(http, refused("", self.call(body), {"model": "no", **body}, 404, "model 'no' not found"))

    async def test_an_error_after_it_is_the_last_line(self, http: httpx.AsyncClient, body: dict[str, object]) -> None:
        lines = await stream(http, self.call(body), {"model": "echo-fail-after-1", "options": {"seed": 1}, **body})
        assert list(lines[-1]) == ["error"]
        assert isinstance(lines[-1]["error"], str)


async def test_line_breaks_are_escaped(http: httpx.AsyncClient) -> None:
    """ollama-python splits its lines at these, wherever they stand."""
    breaks = "\u2028\u2029\u0085"
    body = {"model": "echo", "messages": [{"role": "user", "content": f"a{breaks}b"}], "_debug_render_only": True}
    response = await send(http, Case("", CHAT, body))
    assert not set(breaks) & set(response.text)
    assert breaks in response.json()["_debug_info"]["rendered_template"]


async def test_the_name_is_echoed_as_it_was_sent(http: httpx.AsyncClient) -> None:
    for name in ("SmolLM2:135M", "library/smollm2:135m", f"registry.ollama.ai/library/{MODEL}"):
        await check(http, Case("", GENERATE, {"model": name}, 200, {"model": name, "done_reason": "load"}))


class TestBrowsers:
    async def test_a_foreign_origin_is_refused(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/api/tags", headers={"origin": "https://evil.example"})
        assert (response.status_code, response.content) == (403, b"")

    async def test_a_foreign_host_is_refused(self, http: httpx.AsyncClient) -> None:
        response = await http.get("/api/tags", headers={"host": "evil.example"})
        assert (response.status_code, response.content) == (403, b"")

    @pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "app://obsidian.md", "tauri://x"])
    async def test_local_origins_are_allowed(self, http: httpx.AsyncClient, origin: str) -> None:
        response = await http.get("/api/tags", headers={"origin": origin})
        assert response.headers["access-control-allow-origin"] == origin

    async def test_preflight(self, http: httpx.AsyncClient) -> None:
        asked = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        response = await http.options("/api/chat", headers=asked)
        assert response.status_code == 204
        assert response.headers["access-control-max-age"] == "43200"
        assert "DELETE" in response.headers["access-control-allow-methods"]
        assert "Authorization" in response.headers["access-control-allow-headers"]
