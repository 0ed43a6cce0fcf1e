"""/api/generate and /api/chat: what is asked of the worker, and what the client gets."""

import base64
import json
from typing import Any

import httpx
import pytest

from libs.common.contracts.gateway import ModelUnloadRequested
from libs.common.contracts.inference import ChatMessage, InferenceTask, SamplingOptions
from libs.common.contracts.tokens import Logprob, StreamEnd, TopLogprob
from libs.common.errors import ContextExceeded, EngineFailed, Overloaded, RequestCancelled, ServiceError, Unavailable
from tests.fixtures.gateway import END, Gateway, ScriptedStream


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.iter_lines()]


MESSAGES = [{"role": "user", "content": "hi"}]


async def test_generate_streams_by_default(gateway: Gateway, http: httpx.AsyncClient) -> None:
    response = await http.post("/api/generate", json={"model": "library/m", "prompt": "hi"})
    first, second, last = lines(response)
    assert (first["model"], first["response"], first["done"]) == ("library/m", "Hel", False)
    assert (second["response"], second["done"]) == ("lo", False)
    assert (last["response"], last["done"], last["done_reason"], last["context"]) == ("", True, "stop", [1, 2, 3])
    assert response.headers["x-request-id"] == gateway.streams[0].request_id
    assert gateway.streams[0].closed.is_set()


async def test_chat_streams_by_default(http: httpx.AsyncClient) -> None:
    chunks = lines(await http.post("/api/chat", json={"model": "m", "messages": MESSAGES}))
    assert [chunk["message"]["content"] for chunk in chunks] == ["Hel", "lo", ""]
    assert [chunk["done"] for chunk in chunks] == [False, False, True]
    assert "context" not in chunks[-1]


async def test_without_a_stream_the_answer_is_whole(gateway: Gateway, http: httpx.AsyncClient) -> None:
    response = await http.post("/api/generate", json={"model": "m", "prompt": "hi", "stream": False})
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert (response.json()["response"], response.json()["eval_count"]) == ("Hello", 3)
    assert response.headers["x-request-id"] == gateway.streams[0].request_id
    call = {"function": {"name": "f", "arguments": {}}}
    gateway.play = lambda _: ScriptedStream().say("a", thinking="hm").say("b", tool_calls=[call]).say("c", end=END)
    answer = (await http.post("/api/chat", json={"model": "m", "messages": MESSAGES, "stream": False})).json()
    assert answer["message"] == {"role": "assistant", "content": "abc", "thinking": "hm", "tool_calls": [call]}
    assert all(stream.closed.is_set() for stream in gateway.streams)


async def test_everything_a_request_says_reaches_the_worker(gateway: Gateway, http: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"B": {"type": "string"}}}
    options = {"num_predict": 5, "stop": ["END"], "seed": 7, "num_ctx": 512}
    body = {"model": "m", "prompt": "p", "system": "s", "context": [4, 5], "format": schema, "options": options}
    await http.post("/api/generate", json={**body, "keep_alive": "10m", "truncate": False, "shift": False})
    task = gateway.task
    assert (task.kind, task.prompt, task.system, task.context, task.format) == ("generate", "p", "s", (4, 5), schema)
    assert task.options == SamplingOptions(num_predict=5, stop=("END",), seed=7, num_ctx=512)
    assert (task.keep_alive_seconds, task.truncate, task.shift, task.raw) == (600, False, False, False)


async def test_messages_reach_the_worker(gateway: Gateway, http: httpx.AsyncClient) -> None:
    call = {"function": {"name": "f", "arguments": {"b": 1, "a": [2]}}}
    messages = [
        {"Role": "User", "CONTENT": "q", "images": []},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "r"},
    ]
    await http.post("/api/chat", json={"model": "m", "messages": messages, "tools": []})
    assert gateway.task.messages[0] == ChatMessage(role="user", content="q")
    assert gateway.task.messages[1].tool_calls[0].function.arguments == {"b": 1, "a": [2]}
    assert gateway.task.messages[2] == ChatMessage(role="tool", content="r")


@pytest.mark.parametrize("think", [None, False, True, "low", "medium", "high", "max"])
async def test_think_reaches_the_worker_as_it_is(gateway: Gateway, http: httpx.AsyncClient, think: Any) -> None:
    for path, body in (("generate", {"prompt": "x"}), ("chat", {"messages": MESSAGES})):
        await http.post(f"/api/{path}", json={"model": "thinker", "think": think, **body})
        assert gateway.task.think is think or gateway.task.think == think


async def test_what_generate_alone_has_reaches_the_worker(gateway: Gateway, http: httpx.AsyncClient) -> None:
    body = {"model": "tools", "prompt": "p", "suffix": "s", "template": "{{ .Prompt }}", "images": ["aGk=", "a\r\nGk="]}
    await http.post("/api/generate", json={**body, "width": 1, "height": 1, "steps": 1})
    task = gateway.task
    assert (task.suffix, task.template, task.images) == ("s", "{{ .Prompt }}", ("aGk=", "a\r\nGk="))
    await http.post("/api/generate", json={"model": "m", "prompt": "p", "raw": True})
    assert (gateway.task.raw, gateway.task.template, gateway.task.system) == (True, None, None)


async def test_images_of_messages_reach_the_worker(gateway: Gateway, http: httpx.AsyncClient) -> None:
    large = base64.b64encode(bytes(300_000)).decode()
    messages = [{"role": "user", "content": "what is it?", "images": [large]}]
    await http.post("/api/chat", json={"model": "tools", "messages": messages})
    assert gateway.task.messages[0].images == (large,)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, (False, 0)),
        ({"top_logprobs": 5}, (False, 0)),
        ({"logprobs": True}, (True, 0)),
        ({"logprobs": True, "top_logprobs": 20}, (True, 20)),
    ],
)
async def test_top_logprobs_count_only_with_logprobs(
    gateway: Gateway, http: httpx.AsyncClient, given: dict[str, Any], asked: tuple[bool, int]
) -> None:
    await http.post("/api/chat", json={"model": "m", "messages": MESSAGES, **given})
    assert (gateway.task.logprobs, gateway.task.top_logprobs) == asked


ENTRIES = [
    Logprob("a", -0.5, b"a", [TopLogprob("a", -0.5, b"a"), TopLogprob("\ufffd", -1.0, b"\xe2")]),
    Logprob("b", -2.0),
]
SHOWN = [
    {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "\ufffd", "logprob": -1.0, "bytes": [226]},
        ],
    },
    {"token": "b", "logprob": -2.0, "bytes": []},
]


@pytest.mark.parametrize(("path", "body"), [("generate", {"prompt": "x"}), ("chat", {"messages": MESSAGES})])
async def test_logprobs_stand_beside_the_text(
    gateway: Gateway, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    def play(_task: InferenceTask) -> ScriptedStream:
        stream = ScriptedStream()
        return stream.say("a", logprobs=ENTRIES[:1]).say("").say("b", logprobs=ENTRIES[1:], end=END)

    gateway.play = play
    request = {"model": "m", "logprobs": True, "top_logprobs": 2, **body}
    chunks = lines(await http.post(f"/api/{path}", json=request))
    assert [chunk.get("logprobs") for chunk in chunks] == [SHOWN[:1], None, SHOWN[1:]]
    whole = (await http.post(f"/api/{path}", json={**request, "stream": False})).json()
    assert whole["logprobs"] == SHOWN


@pytest.mark.parametrize("stream", [True, False])
async def test_a_rendered_prompt_is_one_plain_object(gateway: Gateway, http: httpx.AsyncClient, stream: bool) -> None:
    body = {"model": "tools", "prompt": "p", "images": ["aGk="], "_debug_render_only": True, "stream": stream}
    answer = (await http.post("/api/generate", json=body)).json()
    assert set(answer) == {"model", "created_at", "_debug_info"}
    assert answer["_debug_info"] == {"rendered_template": "<p>", "image_count": 1}
    assert gateway.task.debug_render_only


async def test_the_same_token_for_ever_still_has_an_end(gateway: Gateway, http: httpx.AsyncClient) -> None:
    def play(_task: InferenceTask) -> ScriptedStream:
        stream = ScriptedStream()
        for _ in range(100):
            stream.say("ha")
        return stream.say(end=END)

    gateway.play = play
    chunks = lines(await http.post("/api/generate", json={"model": "m", "prompt": "x"}))
    assert (len(chunks), chunks[-1]["done"]) == (101, True)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_the_content_type_does_not_matter(http: httpx.AsyncClient, content_type: str) -> None:
    body = b'{"MODEL":"m","Prompt":"hi","stream":false} trailing'
    response = await http.post("/api/generate", content=body, headers={"Content-Type": content_type})
    assert response.json()["response"] == "Hello"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/generate", {}), ("/api/generate", {"prompt": ""}), ("/api/chat", {}), ("/api/chat", {"messages": []})],
)
async def test_without_a_prompt_the_model_is_loaded(
    gateway: Gateway, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await http.post(path, json={"model": "m", "stream": True, "keep_alive": -1, **body})
    answer = response.json()
    assert (answer["done"], answer["done_reason"]) == (True, "load")
    assert (gateway.task.kind, gateway.task.keep_alive_seconds) == ("load", -1)
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
@pytest.mark.parametrize("model", ["m", "embedder"])
async def test_keep_alive_0_without_a_prompt_unloads(
    gateway: Gateway, http: httpx.AsyncClient, path: str, model: str
) -> None:
    answer = (await http.post(path, json={"model": model, "keep_alive": 0})).json()
    assert (answer["done"], answer["done_reason"]) == (True, "unload")
    name = f"{model}:latest"
    (event,) = gateway.bus.published
    assert isinstance(event, ModelUnloadRequested)
    assert (event.name, event.runner) == (name, f"digest-of-{name}")
    assert not gateway.started


QUALIFIED = "registry.ollama.ai/library/m:latest"
IMAGE = ["aGk="]

Refusal = tuple[str, dict[str, Any], int, str]

REFUSALS: list[Refusal] = [
    ("generate", {"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
    ("generate", {"prompt": "x"}, 404, "model '' not found"),
    ("generate", {"model": "nope", "keep_alive": 0}, 404, "model 'nope' not found"),
    ("chat", {"model": "nope"}, 404, "model 'nope' not found"),
    ("chat", {"messages": MESSAGES}, 400, "model is required"),
    ("chat", {"model": "x" * 1000}, 400, "invalid model name"),
    ("chat", {"model": "embedder", "messages": MESSAGES}, 400, '"embedder" does not support chat'),
    ("generate", {"model": "embedder"}, 400, '"embedder" does not support generate'),
    ("chat", {"model": "m", "messages": MESSAGES, "think": True}, 400, '"m" does not support thinking'),
    ("chat", {"model": "m", "messages": MESSAGES, "think": "high"}, 400, '"m" does not support thinking'),
    ("chat", {"model": "m", "messages": MESSAGES, "tools": [{}]}, 400, f"{QUALIFIED} does not support tools"),
    ("chat", {"model": "embedder", "messages": MESSAGES, "tools": [{}]}, 400, '"embedder" does not support chat'),
    ("chat", {"model": "m", "tools": ["x"]}, 400,
     "json: cannot unmarshal string into Go struct field ChatRequest.tools of type api.Tool"),
    ("chat", {"model": "m", "messages": [{}] * 10_001}, 400,
     "ChatRequest.messages must not have more than 10000 items"),
    ("chat", {"model": "m", "messages": [{"tool_calls": [{}] * 1001}]}, 400,
     "ChatRequest.messages.tool_calls must not have more than 1000 items"),
    ("chat", {"model": "m", "messages": [{"tool_calls": [{"function": {"arguments": {"of": [0] * 40_000}}}] * 3}]}, 400,
     "invalid messages: more than 100000 values"),
    ("chat", {"model": "m", "messages": [{"tool_calls": [{}] * 1000}] * 11}, 400,
     "messages must not have more than 10000 tool calls"),
    ("chat", {"model": "painter", "messages": MESSAGES}, 400, "image generation models are not currently supported"),
    ("chat", {"model": "m", "messages": [{"images": IMAGE}]}, 400,
     "this model is missing data required for image input"),
    ("chat", {"model": "tools", "messages": [{"images": ["data:image/png;base64,aGk="]}]}, 400,
     "illegal base64 data in images"),
    ("generate", {"model": "tools", "images": ["aGk"]}, 400, "illegal base64 data in images"),
    ("generate", {"model": "tools", "images": ["aGk="] * 101}, 400, "a request must not have more than 100 images"),
    ("generate", {"model": "m", "prompt": "x", "context": [-1]}, 400, "context must be token ids of an earlier answer"),
    ("generate", {"model": "m", "prompt": "x", "context": [2**31]}, 400,
     "context must be token ids of an earlier answer"),
    ("chat", {"model": "m:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
    ("generate", {"model": "m:7b-cloud", "prompt": "x"}, 403, "ollama cloud is disabled: remote model is unavailable"),
    ("chat", {"model": "m:local:cloud"}, 400, 'use either :local or :cloud, not both: "m:local:cloud"'),
    ("generate", {"model": "m", "top_logprobs": -1, "logprobs": True}, 400,
     "top_logprobs must be between 0 and 20"),
    ("generate", {"model": "m", "think": 1}, 400,
     'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'),
    ("generate", {"model": "m", "prompt": "x", "suffix": "y"}, 400, f"{QUALIFIED} does not support insert"),
    ("generate", {"model": "m", "images": IMAGE}, 400, "this model is missing data required for image input"),
    *[
        ("generate", {"model": "m", "prompt": "x", "raw": True, **extra}, 400,
         "raw mode does not support template, system, or context")
        for extra in ({"system": "s"}, {"template": "t"}, {"context": [1]})
    ],
    ("chat", {"model": "m", "format": "xml"}, 400,
     'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
    ("chat", {"model": "m", "format": [1]}, 400,
     'invalid format: "[1]"; expected "json" or a valid JSON Schema object'),
    ("chat", {"model": "m", "think": "x"}, 400,
     'invalid think value: "x" (must be "high", "medium", "low", "max", true, or false)'),
    ("chat", {"model": "m", "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
    ("chat", {"model": "m", "messages": MESSAGES, "options": {"num_ctx": "1"}}, 400,
     'option "num_ctx" must be of type integer'),
    ("chat", {"model": "m", "keep_alive": "10"}, 400, 'time: missing unit in duration "10"'),
    ("chat", {"model": "m", "messages": [{"content": []}]}, 400,
     "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"),
    ("chat", {"model": "m", "messages": [{"tool_calls": [{"function": {"arguments": "{}"}}]}]}, 400,
     "json: cannot unmarshal string into Go struct field"
     " ChatRequest.messages.tool_calls.function.arguments of type map[string]interface {}"),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal[3])
async def test_refusals(gateway: Gateway, http: httpx.AsyncClient, refusal: Refusal) -> None:
    path, body, status, error = refusal
    response = await http.post(f"/api/{path}", json=body)
    assert (response.status_code, response.json()) == (status, {"error": error})
    assert not gateway.started


async def test_think_false_and_format_null_are_always_allowed(http: httpx.AsyncClient) -> None:
    body = {"model": "m", "messages": MESSAGES, "think": False, "format": "", "logprobs": False}
    assert (await http.post("/api/chat", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Overloaded(), "server busy, please try again.  maximum pending requests exceeded"),
        (Unavailable(), "a service this request needs is not available; please try again"),
        (RequestCancelled(), "request canceled"),
        (ContextExceeded(), "the prompt is longer than the context length of the model"),
        (EngineFailed("boom"), "boom"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_first_chunk_has_its_own_status(
    gateway: Gateway, http: httpx.AsyncClient, error: ServiceError, text: str, stream: bool
) -> None:
    gateway.play = lambda _: ScriptedStream().fail(error)
    response = await http.post("/api/chat", json={"model": "m", "messages": MESSAGES, "stream": stream})
    assert (response.status_code, response.json()) == (error.status, {"error": text})
    assert ("retry-after" in response.headers) == (error.status == 503)
    assert response.headers["x-request-id"] == gateway.streams[0].request_id
    assert gateway.streams[0].closed.is_set()


async def test_a_failure_after_the_first_chunk_is_the_last_line(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().say("a").fail(EngineFailed("boom"))
    response = await http.post("/api/chat", json={"model": "m", "messages": MESSAGES})
    assert response.status_code == 200
    assert lines(response)[-1] == {"error": "boom"}
    assert gateway.streams[0].closed.is_set()


async def test_a_failure_after_the_first_frame_of_a_whole_answer(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().say("a").fail(EngineFailed("boom"))
    response = await http.post("/api/chat", json={"model": "m", "messages": MESSAGES, "stream": False})
    assert (response.status_code, response.json()) == (500, {"error": "boom"})


async def test_a_defect_of_ours_tells_nothing(gateway: Gateway, http: httpx.AsyncClient) -> None:
    def broken(_task: InferenceTask) -> ScriptedStream:
        raise KeyError("secret")

    gateway.play = broken
    response = await http.post("/api/chat", json={"model": "m", "messages": MESSAGES})
    assert (response.status_code, response.json()) == (500, {"error": "internal error"})


async def test_when_the_registry_is_away_known_models_go_on(gateway: Gateway, http: httpx.AsyncClient) -> None:
    body = {"model": "m", "messages": MESSAGES}
    await http.post("/api/chat", json=body)
    gateway.bus.answers.clear()
    assert (await http.post("/api/chat", json=body)).status_code == 200
    assert (await http.post("/api/chat", json={**body, "model": "tools"})).status_code == 503


async def test_unicode_line_breaks_do_not_break_lines(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().say("a\u2028b\u0085c").say(end=StreamEnd())
    chunks = lines(await http.post("/api/generate", json={"model": "m", "prompt": "x"}))
    assert chunks[0]["response"] == "a\u2028b\u0085c"
