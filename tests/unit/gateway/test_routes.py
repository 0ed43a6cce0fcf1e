"""Everything that is not generation: wire rules, models, embeddings, health, the platform."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from libs.common.contracts.auth.identity import VerifyKey
from libs.common.contracts.auth.keys import ApiKey, CreatedApiKey, CreateKey, ListKeys, RevokeKey
from libs.common.contracts.auth.sessions import Login, Session
from libs.common.contracts.gateway import HeartbeatRequested, ModelUnloadRequested
from libs.common.contracts.inference import ModelDetails
from libs.common.contracts.message import Event
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.contracts.registry import DescribeModel, ListModels, ModelDescription, ModelSummary
from libs.common.contracts.worker import LoadedModel
from libs.common.errors import ModelNotFound, NotFound, Unauthenticated, Unavailable
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, a_session, an_identity
from tests.fixtures.gateway import Gateway, a_gateway

LIMIT = 4096


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway(max_body_bytes=LIMIT) as gateway:
        gateway.bus.answers[VerifyKey] = lambda _: an_identity(key_id="k")
        yield gateway


@pytest.fixture
async def caller(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(Authorization="Bearer omx_good") as http:
        yield http


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/api/version", "/health", "/health/live"])
async def test_probes(http: httpx.AsyncClient, method: str, path: str) -> None:
    if (method, path) not in {("HEAD", "/health"), ("HEAD", "/health/live")}:
        assert (await http.request(method, path)).status_code == 200


async def test_about(http: httpx.AsyncClient) -> None:
    assert (await http.get("/")).text == "Ollama is running"
    assert (await http.get("/api/version")).json() == {"version": "0.33.0"}
    assert (await http.get("/api/status")).json()["cloud"]["disabled"] is True


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/nope", "/api", "/api/chat/x", "/api/chatt/", "//", "/api//chat"])
async def test_unknown_paths(http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await http.request(method, f"http://127.0.0.1{path}")
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/chat"), ("POST", "/api/tags"), ("HEAD", "/api/ps"), ("POST", "/"), ("PUT", "/health")],
)
async def test_wrong_methods(http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await http.request(method, path)
    assert response.status_code == 405
    assert response.text == ("" if method == "HEAD" else "405 method not allowed")


async def test_a_trailing_slash_too_many(http: httpx.AsyncClient) -> None:
    response = await http.get("/api/tags/?a=b")
    assert (response.status_code, response.headers["location"]) == (301, "/api/tags?a=b")
    response = await http.post("/api/chat/", json={})
    assert (response.status_code, response.headers["location"]) == (307, "/api/chat")


POSTS = ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "missing request body"),
        (b"{", 400, "unexpected EOF"),
        (b"[]", 400, "json: cannot unmarshal array into Go value"),
        (b'{"model":1}', 400, "json: cannot unmarshal number 1 into Go struct field"),
        (b'{"model":"\xff"}', 400, "invalid UTF-8"),
        (b'{"model":"m","options":1e999}', 400, "invalid JSON"),
        (b"[" * (LIMIT - 1), 400, "invalid JSON"),
        (b" " * (LIMIT + 1), 413, "request body too large"),
    ],
)
async def test_bad_bodies(http: httpx.AsyncClient, path: str, body: bytes, status: int, error: str) -> None:
    response = await http.post(path, content=body)
    assert response.status_code == status
    assert response.json()["error"].startswith(error)
    assert response.headers["x-request-id"]


async def test_a_body_that_does_not_say_its_size_is_limited_too(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1000

    assert (await http.post("/api/chat", content=endless())).status_code == 413


@pytest.mark.parametrize("body", ["null", "{}"])
@pytest.mark.parametrize("path", POSTS)
async def test_no_model(http: httpx.AsyncClient, path: str, body: str) -> None:
    response = await http.post(path, content=body)
    named = path in ("/api/generate", "/api/embed")
    assert response.status_code == (404 if named else 400)
    assert response.json() == {"error": "model '' not found" if named else "model is required"}


async def test_embed(gateway: Gateway, http: httpx.AsyncClient) -> None:
    body = {"model": "embedder", "input": ["a", "b"], "dimensions": 2, "truncate": False}
    answer = (await http.post("/api/embed", json=body)).json()
    assert (answer["model"], answer["embeddings"]) == ("embedder", [[1.0, 0.0], [1.0, 0.0]])
    assert answer["total_duration"] > 0
    assert answer["load_duration"] > 0
    assert answer["prompt_eval_count"] == 5
    assert (gateway.task.inputs, gateway.task.dimensions, gateway.task.truncate) == (("a", "b"), 2, False)
    assert len((await http.post("/api/embed", json={"model": "embedder", "input": "a"})).json()["embeddings"]) == 1


@pytest.mark.parametrize("inputs", [None, "", []])
async def test_embed_nothing_loads(gateway: Gateway, http: httpx.AsyncClient, inputs: Any) -> None:
    response = await http.post("/api/embed", json={"model": "m", "input": inputs})
    assert response.json() == {"model": "m", "embeddings": []}
    assert gateway.task.kind == "load"


async def test_embeddings(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/embeddings", json={"model": "embedder", "prompt": "a"})
    assert answer.json() == {"embedding": [1.0, 0.0]}
    assert (await http.post("/api/embeddings", json={"model": "embedder"})).json() == {"embedding": []}


async def test_inputs_are_counted() -> None:
    async with a_gateway() as gateway, gateway.client() as http:
        response = await http.post("/api/embed", json={"model": "m", "input": ["a"] * 10_001})
    assert (response.status_code, response.json()) == (400, {"error": "input must not have more than 10000 items"})


async def test_so_are_the_numbers_of_all_vectors(gateway: Gateway, http: httpx.AsyncClient) -> None:
    details = ModelDetails(embedding_length=1_000_000)
    gateway.models["long:latest"] = a_model(name="long:latest", capabilities=("embedding",), details=details)
    response = await http.post("/api/embed", json={"model": "long", "input": ["a"] * 9})
    assert response.json() == {"error": "input must not have more than 8 items for this model"}
    assert response.status_code == 400
    assert (await http.post("/api/embed", json={"model": "long", "input": ["a"] * 3})).status_code == 200


WRONG_INPUTS: list[Any] = [1, [1], {}, ["a", None], True]


@pytest.mark.parametrize("inputs", WRONG_INPUTS)
async def test_wrong_inputs(http: httpx.AsyncClient, inputs: Any) -> None:
    response = await http.post("/api/embed", json={"model": "m", "input": inputs})
    assert (response.status_code, response.json()) == (400, {"error": "invalid input type"})


@pytest.mark.parametrize(
    "refusal",
    [
        ("embed", {"model": "x", "input": "a"}, 404, 'model "x" not found, try pulling it first'),
        ("embeddings", {"model": "x", "prompt": "a"}, 404, 'model "x" not found, try pulling it first'),
        ("show", {"name": "x"}, 404, "model 'x:latest' not found"),
        ("show", {"model": "x" * 1000}, 400, "invalid model name"),
    ],
)
async def test_refusals(
    gateway: Gateway, http: httpx.AsyncClient, refusal: tuple[str, dict[str, Any], int, str]
) -> None:
    path, body, status, error = refusal

    def unknown(_query: DescribeModel) -> ModelDescription:
        raise ModelNotFound

    gateway.bus.answers[DescribeModel] = unknown
    response = await http.post(f"/api/{path}", json=body)
    assert (response.status_code, response.json()) == (status, {"error": error})


DETAILS = ModelDetails(format="gguf", family="llama", families=("llama",), parameter_size="135M", context_length=2048)


async def test_tags(gateway: Gateway, http: httpx.AsyncClient) -> None:
    summary = ModelSummary(
        name="m:latest", digest="d" * 64, size=5, modified_at=0.5, details=DETAILS, capabilities=("tools",)
    )
    gateway.bus.answers[ListModels] = lambda _: (summary,)
    (model,) = (await http.get("/api/tags")).json()["models"]
    assert (model["name"], model["model"], model["size"], model["digest"]) == ("m:latest", "m:latest", 5, "d" * 64)
    assert model["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "135M",
        "quantization_level": "",
        "context_length": 2048,
    }
    assert model["capabilities"] == ["tools"]
    gateway.bus.answers[ListModels] = lambda _: ()
    assert (await http.get("/api/tags")).json() == {"models": []}


@pytest.mark.parametrize(
    ("call", "body", "status", "answer"),
    [
        ("POST /api/me", b"", 503, {"error": "account unavailable"}),
        ("POST /api/signout", b"", 401, {"error": "you are not currently signed in"}),
        ("DELETE /api/user/keys/a2V5", b"", 401, {"error": "you are not currently signed in"}),
        ("GET /api/experimental/model-recommendations", b"", 200, {"recommendations": []}),
        ("POST /api/experimental/web_search", b" ", 400, {"error": "missing request body"}),
        ("POST /api/experimental/web_search", b"{}", 403,
         {"error": "ollama cloud is disabled: web search is unavailable"}),
        ("POST /api/experimental/web_fetch", b"", 400, {"error": "missing request body"}),
        ("POST /api/experimental/web_fetch", b"{}", 403,
         {"error": "ollama cloud is disabled: web fetch is unavailable"}),
        ("POST /api/show", b'{"model":"m:cloud"}', 403,
         {"error": "ollama cloud is disabled: remote model details are unavailable"}),
        ("POST /api/embed", b'{"model":"m:cloud","input":"a"}', 403,
         {"error": "ollama cloud is disabled: remote model is unavailable"}),
    ],
)  # fmt: skip
async def test_there_is_no_cloud(
    http: httpx.AsyncClient, call: str, body: bytes, status: int, answer: dict[str, Any]
) -> None:
    response = await http.request(*call.split(), content=body)
    assert (response.status_code, response.json()) == (status, answer)
    assert response.headers["content-type"] == "application/json; charset=utf-8"


class AWorker:
    """Answers what the gateway announces, with what it has in memory then."""

    def __init__(self, gateway: Gateway, *loaded: LoadedModel) -> None:
        self._cluster = gateway.ctx.cluster
        self.loaded = loaded
        self._cluster.hear(a_heartbeat(), time.monotonic())
        gateway.bus.on_publish = self.answer

    def answer(self, event: Event) -> None:
        assert isinstance(event, HeartbeatRequested | ModelUnloadRequested)
        if isinstance(event, ModelUnloadRequested):
            self.loaded = ()
        self._cluster.hear(a_heartbeat(loaded=self.loaded, marks=(event.mark,)), time.monotonic())


async def test_ps_knows_at_once_what_was_unloaded(gateway: Gateway, http: httpx.AsyncClient) -> None:
    AWorker(gateway, a_loaded_model(a_model(name="m:latest")))
    assert len((await http.get("/api/ps")).json()["models"]) == 1
    await http.post("/api/generate", json={"model": "m", "keep_alive": 0})
    gateway.bus.on_publish = lambda _event: None
    assert gateway.ctx.cluster.loaded(time.monotonic(), an_identity(organization_id="default")) == [], (
        "before it was answered"
    )


async def test_ps_without_a_broker_tells_what_is_known(gateway: Gateway, http: httpx.AsyncClient) -> None:
    def away(_event: Event) -> None:
        raise Unavailable

    gateway.ctx.cluster.hear(a_heartbeat(loaded=(a_loaded_model(a_model(name="m:latest")),)), time.monotonic())
    gateway.bus.on_publish = away
    assert len((await http.get("/api/ps")).json()["models"]) == 1
    response = await http.post("/api/generate", json={"model": "m", "keep_alive": 0})
    assert response.status_code == 503, "nobody was told to unload it"


async def test_ps_shows_a_tag_that_an_upstream_does_not_have(gateway: Gateway, http: httpx.AsyncClient) -> None:
    AWorker(gateway, a_loaded_model(a_model(name="mock-7")))
    (model,) = (await http.get("/api/ps")).json()["models"]
    assert (model["name"], model["model"]) == ("mock-7:latest", "mock-7:latest")


async def test_ps(gateway: Gateway, http: httpx.AsyncClient) -> None:
    loaded = a_loaded_model(a_model(name="m:latest"), size=9, size_vram=0, context_length=4096, details=DETAILS)
    AWorker(gateway, loaded)
    (model,) = (await http.get("/api/ps")).json()["models"]
    assert (model["name"], model["size"], model["size_vram"], model["context_length"]) == ("m:latest", 9, 0, 4096)
    assert int(model["expires_at"][:4]) > 2300, "for ever"


async def test_show(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.bus.answers[DescribeModel] = lambda query: ModelDescription(
        name="m:latest",
        modified_at=1.0,
        details=DETAILS,
        model_info={"general.architecture": "llama"},
        capabilities=("completion",),
        template="{{ .Prompt }}",
        parameters={"stop": ["<a>", "<b>"], "temperature": 0.5},
        weights="sha256:" + "0" * 64,
        tensors=({"name": "t"},) if query.verbose else (),
    )
    shown = (await http.post("/api/show", json={"model": "m", "system": "mine"})).json()
    assert shown["parameters"].splitlines()[0] == 'stop                           "<a>"'
    assert shown["model_info"] == {"general.architecture": "llama"}
    assert shown["system"] == "mine"
    assert "license" not in shown
    assert "tensors" not in shown
    assert shown["modelfile"].startswith('# Modelfile generated by "ollama show"')
    assert (await http.post("/api/show", json={"name": "m", "verbose": True})).json()["tensors"] == [{"name": "t"}]
    copilot = {"User-Agent": "GitHubCopilotChat/1"}
    assert (await http.post("/api/show", json={"name": "m"}, headers=copilot)).json()["model_info"][
        "general.basename"
    ] == "m"


async def test_health(gateway: Gateway, http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/ready")).status_code == 200
    assert (await http.get("/health/db")).status_code == 200
    gateway.ctx.draining.set()
    response = await http.get("/health/ready")
    assert (response.status_code, response.json()["reason"]) == (503, "draining")
    assert (await http.get("/health/live")).status_code == 200


async def test_login(gateway: Gateway, http: httpx.AsyncClient) -> None:
    def log_in(query: Login) -> Session:
        if query.password != "right":
            raise Unauthenticated
        return a_session()

    gateway.bus.answers[Login] = log_in
    response = await http.post("/api/v1/auth/login", json={"email": "a@b.example", "password": "right"})
    assert response.json() == a_session().model_dump(mode="json")
    response = await http.post("/api/v1/auth/login", json={"email": "a@b.example", "password": "wrong"})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthenticated")


KEY = ApiKey(id="00000000-0000-0000-0000-000000000001", name="n", prefix="omx_1", created_at=1.0)


async def test_platform_bodies_are_json_whatever_they_are_called(gateway: Gateway, http: httpx.AsyncClient) -> None:
    """As in the operator's guide: curl sends the type of a form unless it is told otherwise."""
    gateway.bus.answers[Login] = lambda _: a_session()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = '{"email": "a@b", "password": "right"}'
    response = await http.post("/api/v1/auth/login", content=body, headers=headers)
    assert (response.status_code, response.json()["access_token"]) == (200, "t")


async def test_keys(gateway: Gateway, caller: httpx.AsyncClient) -> None:
    asked: list[CreateKey | ListKeys | RevokeKey] = []

    def played(answer: Any) -> Any:
        def answered(query: CreateKey | ListKeys | RevokeKey) -> Any:
            asked.append(query)
            return answer

        return answered

    gateway.bus.answers[CreateKey] = played(CreatedApiKey(**KEY.model_dump(), key="omx_123"))
    gateway.bus.answers[ListKeys] = played(Page(items=(KEY,)))
    gateway.bus.answers[RevokeKey] = played(KEY)
    created = await caller.post("/api/v1/keys", json={"name": "n", "scopes": ["model:read"], "models": ["m*"]})
    assert (created.status_code, created.json()["key"], created.headers["etag"]) == (201, "omx_123", '"1"')
    assert (await caller.get("/api/v1/keys")).json()["items"][0]["prefix"] == "omx_1"
    revoked = await caller.delete(f"/api/v1/keys/{KEY.id}", headers={"If-Match": '"7"'})
    assert (revoked.status_code, revoked.content) == (204, b"")
    assert asked == [
        CreateKey(name="n", scopes=frozenset({Permission.MODEL_READ}), models=("m*",)),
        ListKeys(user_id="u"),
        RevokeKey(key_id=KEY.id, expected_version=7),
    ]


async def test_revoking_what_is_not_there(gateway: Gateway, caller: httpx.AsyncClient) -> None:
    def nobody(_query: RevokeKey) -> ApiKey:
        raise NotFound("no such key")

    gateway.bus.answers[RevokeKey] = nobody
    response = await caller.delete(f"/api/v1/keys/{KEY.id}")
    error = {"code": "not_found", "message": "no such key", "request_id": response.headers["x-request-id"]}
    assert (response.status_code, response.json()) == (404, {"error": error})


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/api/v1/keys", b"", 400),
        ("POST", "/api/v1/keys", b"{", 400),
        ("POST", "/api/v1/keys", b"\xff", 400),
        ("POST", "/api/v1/keys", b'{"name":""}', 400),
        ("POST", "/api/v1/keys", b'{"name":"a","expires_at":1e999}', 400),
        ("POST", "/api/v1/keys", b'{"name":"a\\u0000"}', 400),
        ("POST", "/api/v1/auth/login", b'{"email":"a","password":"hunter2' + b"x" * 2000 + b'"}', 400),
        ("POST", "/api/v1/auth/login", b'{"email":"a","password":"\\ud800"}', 400),
        ("POST", "/api/v1/auth/login", b"[" * 60_000, 400),
        ("POST", "/api/v1/auth/login", b" " * 100_000, 413),
        ("DELETE", "/api/v1/keys/1", b"", 400),
        ("GET", "/api/v1/nope", b"", 404),
        ("PUT", "/api/v1/keys", b"", 405),
        ("GET", "/api/v1/keys", b"", 503),
    ],
)
async def test_the_platform_refuses_in_one_shape(
    caller: httpx.AsyncClient, method: str, path: str, content: bytes, status: int
) -> None:
    response = await caller.request(method, path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "message", "request_id"}
    assert "hunter2" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
