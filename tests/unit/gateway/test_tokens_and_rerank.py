"""What Ollama's users ask for and Ollama does not have: tokens of texts, and documents in order."""

from typing import Any

import httpx
import pytest

from libs.common.errors import ContextExceeded, UnsupportedByModel
from services.gateway.api.ollama.rerank import MOST_DOCUMENTS
from services.gateway.api.ollama.tokens import MOST_CHARACTERS, MOST_TOKENS, TEXT_FIELDS
from tests.fixtures.gateway import Gateway, ScriptedStream

ASKED = {"model": "m", "query": "q", "documents": ["a", "ccc", {"text": "bb", "source": "x"}]}


@pytest.mark.parametrize("field", TEXT_FIELDS)
async def test_a_text_becomes_tokens_and_tokens_a_text(gateway: Gateway, http: httpx.AsyncClient, field: str) -> None:
    answer = (await http.post("/api/tokenize", json={"model": "library/m", field: "Hi"})).json()
    assert answer.pop("total_duration") > 0
    assert answer.pop("load_duration") > 0
    assert answer == {"model": "library/m", "tokens": [72, 105]}
    assert (gateway.task.kind, gateway.task.raw) == ("tokenize", True)
    answer = (await http.post("/api/detokenize", json={"model": "m", "tokens": [72, 105]})).json()
    assert (answer["model"], answer["content"]) == ("m", "Hi")
    assert (gateway.task.kind, gateway.task.context) == ("detokenize", (72, 105))


async def test_what_else_is_said_reaches_the_worker(gateway: Gateway, http: httpx.AsyncClient) -> None:
    body = {"model": "m", "text": "", "add_special": True, "keep_alive": "1m", "options": {"num_ctx": 512}}
    assert (await http.post("/api/tokenize", json=body)).json()["tokens"] == []
    assert (gateway.task.raw, gateway.task.keep_alive_seconds, gateway.task.options.num_ctx) == (False, 60, 512)
    assert (await http.post("/api/detokenize", json={"model": "m", "tokens": []})).json()["content"] == ""


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("tokenize", {"text": "x"}, "model '' not found"),
        ("tokenize", {"model": "no", "text": "x"}, "model 'no' not found"),
        ("tokenize", {"model": "m"}, "the text is required"),
        ("tokenize", {"model": "m", "text": "x", "content": "x"}, "the text is required, as one of"),
        ("tokenize", {"model": "m", "text": 5}, "cannot unmarshal number 5"),
        ("tokenize", {"model": "m", "text": "x", "media_type": "image"}, "media_type must be text"),
        ("tokenize", {"model": "m", "text": "x" * (MOST_CHARACTERS + 1)}, "1000000 characters"),
        ("tokenize", {"model": "painter", "text": "x"}, '"painter" has no tokens of text'),
        ("detokenize", {"model": "m"}, "tokens is required"),
        ("detokenize", {"model": "m", "tokens": ["x"]}, "cannot unmarshal string"),
        ("detokenize", {"model": "m", "tokens": [-1]}, "numbers from 0"),
        ("detokenize", {"model": "m", "tokens": [2**31]}, "numbers from 0"),
        ("detokenize", {"model": "m", "tokens": [1] * (MOST_TOKENS + 1)}, "250000 items"),
    ],
)
async def test_what_is_not_tokens_or_text_is_refused(
    gateway: Gateway, http: httpx.AsyncClient, path: str, body: dict[str, Any], message: str
) -> None:
    response = await http.post(f"/api/{path}", json=body)
    assert response.status_code == (404 if "not found" in message else 400)
    assert message in response.json()["error"]
    assert not gateway.started


@pytest.mark.parametrize("model", ["m", "embedder"])
async def test_documents_come_in_order(gateway: Gateway, http: httpx.AsyncClient, model: str) -> None:
    ranked = [
        {"index": 1, "relevance_score": 3.0},
        {"index": 2, "relevance_score": 2.0},
        {"index": 0, "relevance_score": 1.0},
    ]
    answer = (await http.post("/api/rerank", json=ASKED | {"model": model})).json()
    assert (answer["model"], answer["results"], answer["prompt_eval_count"]) == (model, ranked, 5)
    assert answer["total_duration"] > 0
    answer = (await http.post("/v1/rerank", json=ASKED | {"model": model})).json()
    request_id = gateway.streams[-1].request_id
    assert answer == {
        "id": f"rerank-{request_id}",
        "object": "list",
        "model": model,
        "results": ranked,
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    assert (gateway.task.kind, gateway.task.prompt, gateway.task.inputs) == ("rerank", "q", ("a", "ccc", "bb"))


@pytest.mark.parametrize("path", ["/api/rerank", "/v1/rerank"])
async def test_only_the_best_are_shown_and_with_their_text(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.post(path, json=ASKED | {"top_n": 2, "return_documents": True})
    assert answer.json()["results"] == [
        {"index": 1, "relevance_score": 3.0, "document": {"text": "ccc"}},
        {"index": 2, "relevance_score": 2.0, "document": {"text": "bb"}},
    ]
    assert len((await http.post(path, json=ASKED | {"top_n": 9})).json()["results"]) == 3


@pytest.mark.parametrize("path", ["/api/rerank", "/v1/rerank"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query": ""}, "query is required"),
        ({"documents": []}, "documents is required"),
        ({"documents": None}, "documents is required"),
        ({"documents": "x"}, "cannot unmarshal string"),
        ({"documents": [5]}, "documents must be texts"),
        ({"documents": [{"image": "x"}]}, "documents must be texts"),
        ({"documents": ["x"] * (MOST_DOCUMENTS + 1)}, "1000 items"),
        ({"top_n": 0}, "top_n must be positive"),
        ({"top_n": "1"}, "cannot unmarshal string"),
        ({"model": "painter"}, '"painter" does not support rerank'),
    ],
)
async def test_what_cannot_be_ranked_is_refused(
    gateway: Gateway, http: httpx.AsyncClient, path: str, changed: dict[str, Any], message: str
) -> None:
    response = await http.post(path, json=ASKED | changed)
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in (error if path.startswith("/api") else error["message"])
    assert not gateway.started


async def test_what_would_change_the_order_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/rerank", json=ASKED | {"max_tokens_per_doc": 10})
    assert response.status_code == 400
    assert "'max_tokens_per_doc'" in response.json()["error"]["message"]


async def test_unknown_models_and_what_the_worker_refuses(gateway: Gateway, http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/rerank", json=ASKED | {"model": "no"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    gateway.play = lambda _task: ScriptedStream().fail(UnsupportedByModel("no ranks here"))
    response = await http.post("/api/rerank", json=ASKED)
    assert (response.status_code, response.json()) == (400, {"error": "no ranks here"})
    gateway.play = lambda _task: ScriptedStream().fail(ContextExceeded())
    response = await http.post("/v1/rerank", json=ASKED)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
