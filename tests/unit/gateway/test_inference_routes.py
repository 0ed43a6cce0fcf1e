"""The platform's inference: Ollama's requests and lines, with priorities, deadlines and numbers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from libs.common.contracts.auth.identity import VerifyKey
from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.errors import EngineFailed, Overloaded
from services.gateway.context import Context
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
GENERATE = {"model": "m", "prompt": "hi"}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway() as gateway:
        gateway.bus.answers[VerifyKey] = lambda _query: an_identity()
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(authorization="Bearer omx_k") as http:
        yield http


@pytest.mark.parametrize(("path", "body"), [("chat", CHAT), ("generate", GENERATE)])
async def test_lines_have_numbers(gateway: Gateway, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    answer = await http.post(f"/api/v1/inference/{path}", json=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [(line["seq"], line["done"]) for line in lines] == [(1, False), (2, False), (3, True)]
    assert lines[-1]["eval_count"] == 3
    assert answer.headers["x-request-id"] == gateway.streams[0].request_id


@pytest.mark.parametrize(("path", "body"), [("chat", CHAT), ("generate", GENERATE)])
async def test_as_one_object(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    answer = (await http.post(f"/api/v1/inference/{path}", json={**body, "stream": False})).json()
    text = answer["message"]["content"] if path == "chat" else answer["response"]
    assert (text, answer["done"]) == ("Hello", True)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ("interactive", None)),
        ({"priority": "batch"}, ("batch", None)),
        ({"priority": None, "deadline_seconds": 1.5}, ("interactive", 1.5)),
        ({"deadline": "2500"}, ("interactive", 2.5)),
        ({"deadline": "2500", "deadline_seconds": 60}, ("interactive", 2.5)),
        ({"deadline": "2500", "deadline_seconds": 1}, ("interactive", 1.0)),
    ],
)
async def test_priority_and_deadline(
    gateway: Gateway, http: httpx.AsyncClient, more: dict[str, Any], expected: tuple[str, float | None]
) -> None:
    asked: list[tuple[str, float | None]] = []
    start = gateway.ctx.start_inference

    async def noting(
        ctx: Context, identity: Any, model: ModelRef, task: InferenceTask, *, priority: str, deadline_seconds: Any
    ) -> Any:
        asked.append((priority, deadline_seconds))
        return await start(ctx, identity, model, task)

    object.__setattr__(gateway.ctx, "start_inference", noting)
    headers = {"X-Deadline-Ms": more["deadline"]} if "deadline" in more else {}
    assert (await http.post("/api/v1/inference/chat", json={**CHAT, **more}, headers=headers)).status_code == 200
    assert asked == [expected]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/v1/inference/chat"])
@pytest.mark.parametrize("deadline", ["0", "-1", "1.5", "soon", "", "999999999"])
async def test_a_deadline_that_is_none_is_refused(
    gateway: Gateway, http: httpx.AsyncClient, path: str, deadline: str
) -> None:
    answer = await http.post(path, json={**CHAT, **GENERATE, "input": "x"}, headers={"X-Deadline-Ms": deadline})
    assert answer.status_code == 400
    error = answer.json()["error"]
    message = error["message"] if path.startswith("/api/v1") else error
    assert message == "X-Deadline-Ms must be a whole number of milliseconds above 0 and at most 600000"
    assert gateway.started == []


async def test_an_answer_tells_how_it_waited_and_a_refusal_when_to_come_again(
    gateway: Gateway, http: httpx.AsyncClient
) -> None:
    waited = {"X-Queue-Position": "3", "X-Queue-Estimated-Wait-Ms": "1500"}
    gateway.play = lambda _task: ScriptedStream(headers=waited).say("x").say(end=END)
    for stream in (True, False):
        answer = await http.post("/api/chat", json={**CHAT, "stream": stream}, headers={"Origin": "http://localhost"})
        assert {name: answer.headers[name] for name in waited} == waited
        assert "X-Queue-Position" in answer.headers["access-control-expose-headers"]
    for path in ("/api/chat", "/api/v1/inference/chat"):
        gateway.play = lambda _task: ScriptedStream(headers=waited).fail(Overloaded(retry_after=6.5))
        refused = await http.post(path, json=CHAT)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
        assert refused.headers["x-queue-position"] == "3"


@pytest.mark.parametrize(
    "more",
    [
        {"priority": "urgent"},
        {"priority": 1},
        {"deadline_seconds": 0},
        {"deadline_seconds": True},
        {"deadline_seconds": "5"},
        {"deadline_seconds": 1e6},
        {"messages": "hi"},
        {"options": {"temperature": "hot"}},
    ],
)
async def test_what_is_refused_is_refused_in_the_platforms_words(
    gateway: Gateway, http: httpx.AsyncClient, more: dict[str, Any]
) -> None:
    answer = await http.post("/api/v1/inference/chat", json={**CHAT, **more})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"
    assert gateway.started == []


async def test_an_unknown_model(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/inference/chat", json={**CHAT, "model": "unknown"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_answer_that_breaks_says_why_in_its_last_line(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _task: ScriptedStream().say("Hel").fail(EngineFailed())
    lines = (await http.post("/api/v1/inference/chat", json=CHAT)).text.splitlines()
    assert json.loads(lines[-1]) == {"error": {"code": "engine_failed", "message": "the engine failed"}}


async def test_long_prompts_are_let_in(gateway: Gateway, http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/inference/generate", json={**GENERATE, "prompt": "x" * 1_000_000})
    assert answer.status_code == 200
    assert len(gateway.task.prompt) == 1_000_000


async def test_who_may_not_run_anything(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.bus.answers[VerifyKey] = lambda _query: an_identity("readonly")
    assert (await http.post("/api/v1/inference/chat", json=CHAT)).status_code == 403


async def test_anonymous_callers_use_ollamas_routes(gateway: Gateway) -> None:
    async with gateway.client() as http:
        assert (await http.post("/api/v1/inference/chat", json=CHAT)).status_code == 401
