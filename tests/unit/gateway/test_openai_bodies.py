"""OpenAI's bodies, as lines of batches have them: what becomes of each field, and what is refused."""

import base64
import json
from typing import Any

import pytest
from starlette.datastructures import Headers

from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import Logprob, StreamEnd, TopLogprob, Usage, pack_vector
from libs.common.errors import InvalidRequest, ModelNotFound, ServiceError, UnsupportedByModel
from services.gateway.api.door import Call, Handler
from services.gateway.api.openai.chat import chat_completions
from services.gateway.api.openai.completions import completions
from services.gateway.api.openai.embeddings import embeddings
from services.gateway.api.openai.errors import error_body
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway

HELLO = [{"role": "user", "content": "hello"}]
IMAGE = base64.b64encode(b"an image").decode()
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


async def asked(gateway: Gateway, handler: Handler, body: Any) -> dict[str, Any]:
    answer = await handler(Call(gateway.ctx, an_identity(), Headers(), {}, body))
    parsed: dict[str, Any] = json.loads(bytes(answer.body))
    return parsed


async def task_of(handler: Handler, body: Any) -> InferenceTask:
    async with a_gateway() as gateway:
        await asked(gateway, handler, body)
        return gateway.task


async def test_a_chat_is_answered_as_openai_does() -> None:
    async with a_gateway() as gateway:
        answer = await asked(gateway, chat_completions, {"model": "m", "messages": HELLO})
        assert answer.pop("created") > 1e9
        assert answer.pop("id").startswith("chatcmpl-")
        assert answer == {
            "object": "chat.completion",
            "model": "m",
            "system_fingerprint": "fp_ollama",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        }


async def test_options_are_what_openai_says_also_where_they_are_absent() -> None:
    plain = (await task_of(chat_completions, {"model": "m", "messages": HELLO})).options
    assert (plain.temperature, plain.top_p, plain.num_predict, plain.stop) == (1.0, 1.0, -1, ())
    given = {"temperature": 0, "top_p": 0.5, "seed": 7, "stop": "x", "max_tokens": 3, "max_completion_tokens": 9}
    more = {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    options = (await task_of(chat_completions, {"model": "m", "messages": HELLO, **given, **more})).options
    assert (options.temperature, options.top_p, options.seed, options.stop) == (0, 0.5, 7, ("x",))
    assert (options.num_predict, options.presence_penalty, options.frequency_penalty) == (9, 0.5, -0.5)


async def test_content_in_parts_and_the_names_of_called_tools() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": f"data:;base64,{IMAGE}"}}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    task = await task_of(chat_completions, {"model": "tools", "messages": messages, "tools": [WEATHER]})
    assert [(each.role, each.content, each.images) for each in task.messages[:2]] == [
        ("user", "look", ()),
        ("user", "", (IMAGE,)),
    ]
    assert (task.messages[2].tool_calls[0].function.arguments, task.messages[2].thinking) == ({"city": "Rome"}, "hm")
    assert task.messages[3].tool_name == "weather"
    assert task.tools[0]["function"]["name"] == "weather"


async def test_tool_calls_thinking_and_logprobs_of_an_answer() -> None:
    def play(_task: InferenceTask) -> ScriptedStream:
        call = {"id": "c", "function": {"name": "f", "arguments": {"x": 1}}}
        logprob = Logprob("a", -0.5, b"a", [TopLogprob("b", -1.0, b"b")])
        return ScriptedStream().say("a", thinking="hm", tool_calls=[call], logprobs=[logprob]).say(end=END)

    async with a_gateway() as gateway:
        gateway.play = play
        answer = await asked(gateway, chat_completions, {"model": "tools", "messages": HELLO, "tools": [WEATHER]})
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning"] == "hm"
    assert choice["message"]["tool_calls"] == [
        {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    ]
    assert choice["logprobs"]["content"] == [
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": [98]}],
        }
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, {"type": "object"}),
    ],
)
async def test_formats(given: Any, expected: Any) -> None:
    task = await task_of(chat_completions, {"model": "m", "messages": HELLO, "response_format": given})
    assert task.format == expected


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("minimal", "low"), ("high", "high"), ("xhigh", "max")])
async def test_effort(effort: str, think: Any) -> None:
    body = {"model": "thinker", "messages": HELLO}
    assert (await task_of(chat_completions, {**body, "reasoning_effort": effort})).think == think
    assert (await task_of(chat_completions, {**body, "reasoning": {"effort": effort}})).think == think


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 2}, "'n'"),
        ({"n": True}, "'n'"),
        ({"stream": True}, "'stream'"),
        ({"tool_choice": "required"}, "'tool_choice'"),
        ({"logit_bias": {"1": 2}}, "'logit_bias'"),
        ({"audio": {}}, "'audio'"),
        ({"messages": []}, "too short"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}] * 4000}] * 3}, "10000 parts"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL] * 1000}] * 11}, "10000 tool calls"),
        ({"messages": [{"role": "user", "content": None}]}, "content type"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}]}, "image URLs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "invalid image"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": ""}}]}]}, "arguments"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"reasoning_effort": "huge"}, "reasoning"),
        ({"temperature": "hot"}, "temperature"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"model": ""}, "model is required"),
        ({"max_tokens": "9"}, "max_tokens"),
    ],
)
async def test_what_is_not_understood_is_refused(changed: dict[str, Any], message: str) -> None:
    async with a_gateway() as gateway:
        with pytest.raises(InvalidRequest, match=message):
            await asked(gateway, chat_completions, {"model": "m", "messages": HELLO, **changed})
        assert gateway.started == []


async def test_what_the_model_cannot_do() -> None:
    async with a_gateway() as gateway:
        for body in ({"tools": [WEATHER]}, {"reasoning_effort": "high"}):
            with pytest.raises(UnsupportedByModel):
                await asked(gateway, chat_completions, {"model": "m", "messages": HELLO, **body})
        await asked(
            gateway, chat_completions, {"model": "m", "messages": HELLO, "tools": [WEATHER], "tool_choice": "none"}
        )
        with pytest.raises(ModelNotFound):
            await asked(gateway, chat_completions, {"model": "nothing", "messages": HELLO})


async def test_completions() -> None:
    async with a_gateway() as gateway:
        answer = await asked(
            gateway, completions, {"model": "tools", "prompt": "once", "suffix": "end", "max_tokens": 4}
        )
        assert answer["object"] == "text_completion"
        assert answer["choices"] == [{"index": 0, "text": "Hello", "finish_reason": "stop"}]
        assert (gateway.task.prompt, gateway.task.suffix, gateway.task.options.num_predict) == ("once", "end", 4)
        for bad in ({"prompt": ""}, {"prompt": ["a"]}, {"prompt": "a", "best_of": 2}, {"prompt": "a", "echo": True}):
            with pytest.raises(InvalidRequest):
                await asked(gateway, completions, {"model": "m", **bad})


async def test_embeddings() -> None:
    def play(task: InferenceTask) -> ScriptedStream:
        vectors = [pack_vector([1.0, 0.5])] * len(task.inputs)
        return ScriptedStream().say(end=StreamEnd(embeddings=vectors, usage=Usage(prompt_tokens=4)))

    async with a_gateway() as gateway:
        gateway.play = play
        answer = await asked(gateway, embeddings, {"model": "embedder", "input": ["a", "b"]})
        assert answer == {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": [1.0, 0.5]} for index in (0, 1)],
            "model": "embedder",
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
        packed = await asked(gateway, embeddings, {"model": "embedder", "input": "a", "encoding_format": "base64"})
        assert base64.b64decode(packed["data"][0]["embedding"]) == b"\0\0\x80?\0\0\0?"
        refused: list[dict[str, Any]] = [
            {},
            {"input": []},
            {"input": [1]},
            {"input": "a", "encoding_format": "hex"},
            {"input": "a", "dimensions": 0},
            {"input": "a", "stream": True},
        ]
        for bad in refused:
            with pytest.raises(InvalidRequest):
                await asked(gateway, embeddings, {"model": "embedder", **bad})


def test_errors() -> None:
    assert error_body(ModelNotFound("no m")) == {
        "error": {"message": "no m", "type": "not_found_error", "param": "model", "code": "model_not_found"}
    }
    assert error_body(ServiceError())["error"]["type"] == "api_error"
