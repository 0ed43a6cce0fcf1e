"""Streams of OpenAI's dialect, byte by byte: as kept in ``golden/``, and as OpenAI's own client reads them."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from openai._streaming import SSEDecoder

from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import Logprob, StreamEnd, TopLogprob, Usage
from libs.common.errors import EngineFailed
from services.gateway.api import sse
from services.gateway.api.openai import wire
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway
from tests.fixtures.openai_bodies import HELLO, a_tool

GOLDEN = Path(__file__).with_name("golden")
CUT_SHORT = StreamEnd(done_reason="length", usage=Usage(prompt_tokens=5, completion_tokens=2))
CALLS = [{"id": f"call_{name}", "function": {"name": name, "arguments": {"x": name}}} for name in "ab"]
TOKENS = [Logprob(text, -0.5, text.encode(), [TopLogprob("x", -1.5, b"x")]) for text in ("Hel", "lo")]
Play = Callable[[InferenceTask], ScriptedStream]
USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setattr(wire, "created", lambda: 1700000000)
    async with a_gateway() as gateway:
        yield gateway


def a_stream(number: int = 1) -> ScriptedStream:
    return ScriptedStream(request_id=f"{number:032}")


def plain(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say("Hel").say("lo\u2028").say(end=END)


def thoughtful(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say(thinking="hm").say("so", thinking=", ").say("!", end=CUT_SHORT)


def calling(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say("I call").say(tool_calls=CALLS[:1]).say(tool_calls=CALLS[1:], end=END)


def silent(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say(end=END)


def counted(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say("Hel", logprobs=TOKENS[:1]).say("lo", logprobs=TOKENS[1:]).say(end=END)


def broken(_task: InferenceTask) -> ScriptedStream:
    return a_stream().say("Hel").fail(EngineFailed("it broke"))


CHATS: dict[str, tuple[Play, dict[str, Any]]] = {
    "chat": (plain, {"model": "m"}),
    "chat_usage": (plain, {"model": "m", **USAGE}),
    "chat_thinking": (thoughtful, {"model": "thinker"}),
    "chat_tools": (calling, {"model": "tools", "tools": [a_tool("a"), a_tool("b")]}),
    "chat_empty": (silent, {"model": "m"}),
    "chat_logprobs": (counted, {"model": "m", "logprobs": True, "top_logprobs": 1}),
    "chat_broken": (broken, {"model": "m", **USAGE}),
}
TEXTS: dict[str, tuple[Play, dict[str, Any]]] = {
    "completions": (plain, {"model": "m", "prompt": "p"}),
    "completions_usage": (plain, {"model": "m", "prompt": "p", "echo": True, **USAGE}),
    "completions_logprobs": (counted, {"model": "m", "prompt": "p", "logprobs": 1}),
    "completions_thinking": (thoughtful, {"model": "thinker", "prompt": "p"}),
    "completions_broken": (broken, {"model": "m", "prompt": "p"}),
}


async def streamed(gateway: Gateway, path: str, body: dict[str, Any]) -> bytes:
    async with gateway.client() as http:
        response = await http.post(path, json={**body, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    return response.content


def read(content: bytes) -> list[Any]:
    """The data of its events, as OpenAI's client reads them."""
    events = [event.data for event in SSEDecoder().iter_bytes(iter([content]))]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


@pytest.mark.parametrize("name", CHATS)
async def test_chats(gateway: Gateway, name: str) -> None:
    gateway.play, body = CHATS[name]
    content = await streamed(gateway, "/v1/chat/completions", {"messages": HELLO, **body})
    assert content == (GOLDEN / f"{name}.txt").read_bytes()


@pytest.mark.parametrize("name", TEXTS)
async def test_texts(gateway: Gateway, name: str) -> None:
    gateway.play, body = TEXTS[name]
    content = await streamed(gateway, "/v1/completions", body)
    assert content == (GOLDEN / f"{name}.txt").read_bytes()


async def test_each_choice_begins_and_ends_by_itself(gateway: Gateway) -> None:
    gateway.play = lambda task: a_stream(task.options.seed).say("a").say("b", end=END)
    body = {"model": "m", "messages": HELLO, "n": 3, "seed": 1, **USAGE}
    *chunks, usage, done = read(await streamed(gateway, "/v1/chat/completions", body))
    assert done == "[DONE]"
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
    assert {chunk["id"] for chunk in (*chunks, usage)} == {f"chatcmpl-{1:032}"}
    for number in range(3):
        own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == number]
        assert [choice["delta"] for choice in own] == [{"role": "assistant", "content": "a"}, {"content": "b"}, {}]
        assert [choice["finish_reason"] for choice in own] == [None, None, "stop"]


async def test_choices_of_several_prompts(gateway: Gateway) -> None:
    gateway.play = lambda task: a_stream().say(f"<{task.prompt}>", end=END)
    body = {"model": "m", "prompt": ["a", "b"], "n": 2, "echo": True, **USAGE}
    *chunks, usage, _done = read(await streamed(gateway, "/v1/completions", body))
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "a<a>", 1: "a<a>", 2: "b<b>", 3: "b<b>"}
    assert usage["usage"] == {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22}


async def test_one_choice_that_fails_ends_them_all(gateway: Gateway) -> None:
    def play(task: InferenceTask) -> ScriptedStream:
        stream = a_stream().say("a")
        return stream.fail(EngineFailed("it broke")) if task.options.seed == 2 else stream

    gateway.play = play
    *_, last = read(
        await streamed(gateway, "/v1/chat/completions", {"model": "m", "messages": HELLO, "n": 2, "seed": 1})
    )
    assert last["error"]["message"] == "it broke"
    assert all(stream.closed.is_set() for stream in gateway.streams)


async def test_what_fails_before_the_first_word_has_its_own_status(gateway: Gateway) -> None:
    gateway.play = lambda _: a_stream().fail(EngineFailed("it broke"))
    async with gateway.client() as http:
        response = await http.post(
            "/v1/chat/completions", json={"model": "m", "messages": HELLO, "n": 2, "stream": True}
        )
    assert (response.status_code, response.json()["error"]["message"]) == (500, "it broke")


def test_what_breaks_a_silence_is_passed_over() -> None:
    assert read(sse.KEEP_ALIVE + sse.event(b'"x"') + sse.KEEP_ALIVE) == ["x"]
