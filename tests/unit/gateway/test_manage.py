"""Create, copy, delete, pull and push as Ollama's clients see them; the registry is played."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from libs.common.contracts.auth.identity import VerifyKey
from libs.common.contracts.gateway import OperationCancelled
from libs.common.contracts.inference import ChatMessage
from libs.common.contracts.registry import (
    CopyModel,
    CreateModel,
    DeleteModel,
    Failure,
    OperationReported,
    Progress,
    PullModel,
    PushModel,
    ResolveModel,
)
from libs.common.errors import InvalidModelName, ModelNotFound, ServiceError
from tests.fixtures.builders import a_model, an_identity
from tests.fixtures.buses import eventually
from tests.fixtures.gateway import Gateway, a_gateway, serving

DIGEST = "sha256:" + "a" * 64
LAYER = Progress(status="pulling aaaaaaaaaaaa", digest=DIGEST, total=10)
LINES = (Progress(status="pulling manifest"), LAYER, Progress(status="success"))
OPERATIONS = [
    ("/api/pull", PullModel, {"model": "m"}),
    ("/api/push", PushModel, {"model": "m"}),
    ("/api/create", CreateModel, {"model": "m", "from": "base"}),
]


def reporting(gateway: Gateway, *lines: Progress, error: Failure | None = None) -> Callable[[Any], None]:
    """A registry that is done at once."""

    def work(command: PullModel | PushModel | CreateModel) -> None:
        report = OperationReported(operation_id=command.operation_id, progress=lines, finished=True, error=error)
        gateway.ctx.operations.hear(report)

    return work


def keeping(gateway: Gateway, *lines: Progress) -> tuple[list[Any], Callable[[Any], None]]:
    commands: list[Any] = []
    work = reporting(gateway, *lines)

    def keep(command: Any) -> None:
        commands.append(command)
        work(command)

    return commands, keep


@pytest.mark.parametrize(("path", "command", "body"), OPERATIONS)
async def test_a_stream_of_progress(
    gateway: Gateway, http: httpx.AsyncClient, path: str, command: type[Any], body: dict[str, Any]
) -> None:
    commands, gateway.bus.answers[command] = keeping(gateway, *LINES)
    response = await http.post(path, json=body)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in response.text.splitlines()] == [
        {"status": "pulling manifest"},
        {"status": "pulling aaaaaaaaaaaa", "digest": DIGEST, "total": 10},
        {"status": "success"},
    ]
    assert response.headers["x-request-id"] == commands[0].operation_id
    assert gateway.bus.published == []


@pytest.mark.parametrize(("path", "command", "body"), OPERATIONS)
async def test_the_last_line_alone(
    gateway: Gateway, http: httpx.AsyncClient, path: str, command: type[Any], body: dict[str, Any]
) -> None:
    gateway.bus.answers[command] = reporting(gateway, *LINES)
    response = await http.post(path, json={**body, "stream": False})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {"status": "success"}


@pytest.mark.parametrize(("path", "command", "body"), OPERATIONS)
async def test_a_failure_before_the_first_line_has_its_status(
    gateway: Gateway, http: httpx.AsyncClient, path: str, command: type[Any], body: dict[str, Any]
) -> None:
    failure = Failure(code="invalid_model_name", message="invalid model name")
    gateway.bus.answers[command] = reporting(gateway, error=failure)
    for stream in (True, False):
        response = await http.post(path, json={**body, "stream": stream})
        assert (response.status_code, response.json()) == (400, {"error": "invalid model name"})


@pytest.mark.parametrize(("path", "command", "body"), OPERATIONS)
async def test_a_failure_after_the_first_line_is_the_last_line(
    gateway: Gateway, http: httpx.AsyncClient, path: str, command: type[Any], body: dict[str, Any]
) -> None:
    error = Failure(code=ServiceError.code, message="pull model manifest: file does not exist")
    gateway.bus.answers[command] = reporting(gateway, LINES[0], error=error)
    streamed = await http.post(path, json=body)
    assert streamed.status_code == 200
    assert json.loads(streamed.text.splitlines()[-1]) == {"error": "pull model manifest: file does not exist"}
    whole = await http.post(path, json={**body, "stream": False})
    assert (whole.status_code, whole.json()) == (500, {"error": "pull model manifest: file does not exist"})


@pytest.mark.parametrize(("path", "command", "body"), OPERATIONS)
async def test_nobody_there(http: httpx.AsyncClient, path: str, command: type[Any], body: dict[str, Any]) -> None:
    assert (await http.post(path, json=body)).status_code == 503


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_cancels(gateway: Gateway, stream: bool) -> None:
    commands: list[PullModel] = []

    def begin(command: PullModel) -> None:
        commands.append(command)
        gateway.ctx.operations.hear(OperationReported(operation_id=command.operation_id, progress=LINES[:1]))

    gateway.bus.answers[PullModel] = begin
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        asking = asyncio.create_task(http.post("/api/pull", json={"model": "m", "stream": stream}))
        await eventually(lambda: commands)
        asking.cancel()
        await asyncio.wait([asking])
        await eventually(lambda: gateway.bus.published)
    assert gateway.bus.published == [OperationCancelled(operation_id=commands[0].operation_id)]
    assert len(gateway.ctx.operations) == 0


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/api/pull", {"name": "m", "insecure": True}, PullModel(operation_id="", name="m", insecure=True)),
        ("/api/pull", {"model": "m:7b:local"}, PullModel(operation_id="", name="m:7b")),
        ("/api/push", {"name": "ns/m", "insecure": True}, PushModel(operation_id="", name="ns/m", insecure=True)),
        ("/api/create", {"name": "m", "from": "b"}, CreateModel(operation_id="", name="m", base="b")),
        (
            "/api/create",
            {
                "model": "m",
                "files": {"a/b.gguf": DIGEST},
                "adapters": {"lora.gguf": DIGEST.replace(":", "-")},
                "template": "{{ .Prompt }}",
                "system": "be kind",
                "license": "MIT",
                "parameters": {"stop": ["a", "b"], "temperature": 0.5},
                "messages": [{"role": "user", "content": "hi"}],
                "quantization": "Q8_0",
                "requires": "0.14.0",
                "modelfile": "FROM ignored",
                "path": "/ignored",
                "info": {"x": 1},
                "renderer": "r",
                "parser": "p",
            },
            CreateModel(
                operation_id="",
                name="m",
                files={"a/b.gguf": DIGEST},
                adapters={"lora.gguf": DIGEST.replace(":", "-")},
                template="{{ .Prompt }}",
                system="be kind",
                license=("MIT",),
                parameters={"stop": ["a", "b"], "temperature": 0.5},
                messages=(ChatMessage(role="user", content="hi"),),
                quantize="Q8_0",
                requires="0.14.0",
            ),
        ),
        (
            "/api/create",
            {
                "model": "m",
                "from": "b",
                "license": ["A", "B"],
                "quantize": "F16",
                "quantization": "F32",
                "template": "",
            },
            CreateModel(operation_id="", name="m", base="b", license=("A", "B"), quantize="F16"),
        ),
    ],
)
async def test_what_is_asked_for(
    gateway: Gateway, http: httpx.AsyncClient, path: str, body: dict[str, Any], expected: PullModel | CreateModel
) -> None:
    commands, gateway.bus.answers[type(expected)] = keeping(gateway, *LINES)
    assert (await http.post(path, json=body)).status_code == 200
    assert commands[0].model_copy(update={"operation_id": ""}) == expected


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/pull", {}, 400, "invalid model name"),
        ("/api/push", {}, 400, "model is required"),
        ("/api/create", {"from": "b"}, 400, "invalid model name"),
        ("/api/create", {"model": "m"}, 400, "neither 'from' or 'files' was specified"),
        ("/api/create", {"model": "m", "files": None}, 400, "neither 'from' or 'files' was specified"),
        ("/api/create", {"model": "m", "files": {}}, 400, "no files provided to convert"),
        ("/api/create", {"model": "m", "files": {"a": "sha256:1"}}, 400, "invalid digest format"),
        ("/api/create", {"model": "m", "files": {"a": "md5:" + "a" * 32}}, 400, "invalid digest format"),
        ("/api/create", {"model": "m", "from": "b", "adapters": {"a": DIGEST[:-1]}}, 400, "invalid digest format"),
        *(
            ("/api/create", {"model": "m", "files": {path: DIGEST}}, 400, "file path must be relative")
            for path in ("/a", "../a", "a/../b", "a//b", "", ".", "a/.")
        ),
        (
            "/api/create",
            {"model": "m", "files": {"a": 1}},
            400,
            "json: cannot unmarshal number 1 into Go struct field CreateRequest.files of type string",
        ),
        (
            "/api/create",
            {"model": "m", "from": "b", "draft_files": {"a": DIGEST}},
            400,
            "draft models are not supported",
        ),
        ("/api/create", {"model": "m", "from": "b", "remote_host": "x"}, 400, "remote models are not supported"),
        ("/api/pull", {"model": "m:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        (
            "/api/create",
            {"model": "m", "from": "b:cloud"},
            403,
            "ollama cloud is disabled: remote model is unavailable",
        ),
        ("/api/delete", {}, 400, "model is required"),
    ],
)
async def test_what_is_refused_at_once(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    method = "DELETE" if path == "/api/delete" else "POST"
    response = await http.request(method, path, json=body)
    assert (response.status_code, response.json()) == (status, {"error": error})


async def test_copy(gateway: Gateway, http: httpx.AsyncClient) -> None:
    copies: list[CopyModel] = []
    gateway.bus.answers[CopyModel] = copies.append
    response = await http.post("/api/copy", json={"source": "a", "destination": "b"})
    assert (response.status_code, response.content) == (200, b"")
    assert copies == [CopyModel(source="a", destination="b")]


@pytest.mark.parametrize("error", [InvalidModelName('source "?" is invalid'), ModelNotFound('model "?" not found')])
async def test_a_copy_that_fails(gateway: Gateway, http: httpx.AsyncClient, error: ServiceError) -> None:
    def refuse(_query: CopyModel) -> None:
        raise error

    gateway.bus.answers[CopyModel] = refuse
    response = await http.post("/api/copy", json={"source": "?", "destination": "b"})
    assert (response.status_code, response.json()) == (error.status, {"error": error.message})


@pytest.mark.parametrize("field", ["model", "name"])
async def test_delete(gateway: Gateway, http: httpx.AsyncClient, field: str) -> None:
    deleted: list[DeleteModel] = []
    gateway.bus.answers[DeleteModel] = deleted.append
    response = await http.request("DELETE", "/api/delete", json={field: "m"})
    assert (response.status_code, response.content) == (200, b"")
    assert deleted == [DeleteModel(name="m")]


@pytest.mark.parametrize("change", ["pull", "create", "copy", "delete"])
async def test_the_gateway_reads_its_own_writes(gateway: Gateway, http: httpx.AsyncClient, change: str) -> None:
    """Also when the event of the change is late."""
    gateway.bus.answers[PullModel] = gateway.bus.answers[CreateModel] = reporting(gateway, *LINES)
    gateway.bus.answers[CopyModel] = gateway.bus.answers[DeleteModel] = lambda _: None
    chat = {"model": "new", "messages": [{"role": "user", "content": "hi"}]}
    assert (await http.post("/api/chat", json=chat)).status_code == 404
    gateway.bus.answers[ResolveModel] = lambda query: a_model(name=query.name)
    method, body = {
        "pull": ("POST", {"model": "http://NEW:latest", "insecure": True}),
        "create": ("POST", {"model": "new", "from": "m"}),
        "copy": ("POST", {"source": "m", "destination": "new"}),
        "delete": ("DELETE", {"model": "new"}),
    }[change]
    assert (await http.request(method, f"/api/{change}", json=body)).status_code == 200
    assert (await http.post("/api/chat", json=chat)).status_code == 200


WRITES = [
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("DELETE", "/api/delete"),
    ("POST", f"/api/blobs/{DIGEST}"),
]


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize("role", ["user", "readonly"])
async def test_who_may_only_read(method: str, path: str, role: str) -> None:
    async with a_gateway(anonymous=False) as gateway, gateway.client(Authorization="Bearer omx_1") as http:
        gateway.bus.answers[VerifyKey] = lambda _: an_identity(role)
        response = await http.request(method, path, json={"model": "m"})
        assert response.status_code == 403
        assert response.json() == {"error": "forbidden: this needs the permission model:manage"}


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_strangers_manage_nothing_beyond_loopback(method: str, path: str) -> None:
    async with a_gateway(host="0.0.0.0", anonymous_beyond_loopback=True) as gateway, gateway.client() as http:
        assert (await http.request(method, path, json={"model": "m"})).status_code == 403


@pytest.mark.parametrize("digest", ["sha256:1", "nonsense", "md5:" + "a" * 64, DIGEST + "0", "..", "%2e%2e"])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_what_is_no_digest(http: httpx.AsyncClient, method: str, digest: str) -> None:
    response = await http.request(method, f"/api/blobs/{digest}")
    assert response.status_code in ({400} if "." not in digest and "%" not in digest else {400, 404, 405})
    if method == "POST" and response.status_code == 400:
        assert response.json() == {"error": "invalid digest format"}


async def test_there_is_no_get_of_blobs(http: httpx.AsyncClient) -> None:
    assert (await http.get(f"/api/blobs/{DIGEST}")).status_code == 405
