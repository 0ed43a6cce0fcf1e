"""Streams of /v1/responses, byte by byte as kept in ``golden/``, and event by event as OpenAI's own types say."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from openai._streaming import SSEDecoder
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import Frame, Logprob, StreamEnd, TopLogprob, Usage
from libs.common.errors import EngineFailed, RateLimited, RequestCancelled, ServiceError
from services.gateway.api.openai import wire
from services.gateway.api.openai.responses.events import Events
from services.gateway.api.openai.responses.request import read
from services.gateway.api.openai.responses.shown import Reply
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway

GOLDEN = Path(__file__).with_name("golden")
CUT_SHORT = StreamEnd(done_reason="length", usage=Usage(prompt_tokens=5, completion_tokens=2))
TOKENS = [Logprob(text, -0.5, text.encode(), [TopLogprob("x", -1.5, b"x")]) for text in ("Hel", "lo")]
CALLS = [{"id": f"call_{name}", "function": {"name": name, "arguments": {"x": name}}} for name in ("look", "ns.see")]
TOOLS = [
    {"type": "function", "name": "look", "parameters": {}, "strict": False},
    {"type": "namespace", "name": "ns", "description": "", "tools": [{"type": "function", "name": "see"}]},
]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
Play = Callable[[InferenceTask], ScriptedStream]


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(wire, "created", lambda: 1700000000)
    async with a_gateway() as gateway:
        yield gateway


def a_stream() -> ScriptedStream:
    return ScriptedStream(request_id="0" * 32)


def plain(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say("Hel").say("lo\u2028").say(end=END)


def thoughtful(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say(thinking="hm").say("so", thinking=", ").say("!", end=CUT_SHORT)


def calling(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say("I call").say(tool_calls=CALLS[:1]).say(tool_calls=CALLS[1:], end=END)


def silent(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say(end=END)


def counted(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say("Hel", logprobs=TOKENS[:1]).say("lo", logprobs=TOKENS[1:], end=END)


def broken(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say("Hel").fail(EngineFailed("it broke"))


STREAMS: dict[str, tuple[Play, dict[str, Any]]] = {
    "responses_plain": (plain, {"model": "m", "metadata": {"a": "b"}}),
    "responses_thinking": (thoughtful, {"model": "thinker", "include": ["reasoning.encrypted_content"]}),
    "responses_tools": (calling, {"model": "tools", "tools": TOOLS}),
    "responses_empty": (silent, {"model": "m"}),
    "responses_logprobs": (counted, {"model": "m", "top_logprobs": 1}),
    "responses_broken": (broken, {"model": "m"}),
}


async def streamed(gateway: Gateway, body: dict[str, Any]) -> bytes:
    async with gateway.client() as http:
        response = await http.post("/v1/responses", json={"input": "hi", **body, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    return response.content


def read_events(content: bytes) -> list[dict[str, Any]]:
    """As OpenAI's client cuts them, each checked against its types."""
    events = []
    for sent in SSEDecoder().iter_bytes(iter([content])):
        event = json.loads(sent.data)
        assert sent.event == event["type"]
        EVENT.validate_python(event, strict=True)
        events.append(event)
    return events


@pytest.mark.parametrize("name", STREAMS)
async def test_streams(gateway: Gateway, name: str) -> None:
    gateway.play, body = STREAMS[name]
    content = await streamed(gateway, body)
    assert content == (GOLDEN / f"{name}.txt").read_bytes()
    events = read_events(content)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "responses_broken"])
async def test_what_is_streamed_adds_up_to_the_whole_answer(gateway: Gateway, name: str) -> None:
    gateway.play, body = STREAMS[name]
    last = read_events(await streamed(gateway, body))[-1]["response"]
    async with gateway.client() as http:
        whole = (await http.post("/v1/responses", json={"input": "hi", **body})).json()
    assert whole | {"completed_at": None} == last


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineFailed("it broke"), "failed", "server_error"),
        (RateLimited(), "failed", "rate_limit_exceeded"),
        (RequestCancelled(), "cancelled", None),
    ],
)
async def test_an_answer_that_fails_says_so(
    gateway: Gateway, error: ServiceError, status: str, code: str | None
) -> None:
    gateway.play = lambda _: a_stream().say("Hel").fail(error)
    last = read_events(await streamed(gateway, {"model": "m"}))[-1]
    shown = Response.model_validate(last["response"], strict=True)
    assert (last["type"], shown.status, shown.output_text) == ("response.failed", status, "Hel")
    assert (shown.error.code if shown.error else None) == code


def told(frames: list[Frame], after: int = -1) -> bytes:
    asked = read({"model": "m", "input": "hi", "background": True, "stream": True})
    reply = Reply(asked, "resp_" + "0" * 32, 1700000000, kept=True)
    events = Events(lambda _id: reply, after)
    content = events.opening("")
    for frame in frames:
        content += events.chunk(frame, 0) if frame.end is None else events.last(frame, frame.end, 0)
    return content + events.closing()


FRAMES = [Frame("", 0, 0), Frame("r", 1, 1, "Hel"), Frame("r", 1, 2, "lo"), Frame("r", 1, 3, end=END)]


def test_a_response_in_the_background_is_queued_first() -> None:
    events = read_events(told(FRAMES))
    assert [event["type"] for event in events[:4]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
    ]
    assert [event["type"] for event in read_events(told(FRAMES[:1]))] == ["response.created", "response.queued"]


def test_who_reads_on_gets_the_rest_of_the_same_bytes() -> None:
    whole = told(FRAMES)
    events = read_events(whole)
    for after in range(-1, len(events) + 1):
        rest = told(FRAMES, after)
        assert whole.endswith(rest)
        assert [event["sequence_number"] for event in read_events(rest)] == list(range(after + 1, len(events)))
