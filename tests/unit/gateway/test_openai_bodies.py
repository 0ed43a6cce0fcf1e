"""Bodies of /v1/chat/completions: what becomes of each field."""

import base64
from typing import Any

import pytest

from libs.common.contracts.inference import ChatMessage, InferenceTask
from libs.common.contracts.tokens import Logprob, TopLogprob
from libs.common.errors import InvalidRequest, ModelNotFound, UnsupportedByModel
from services.gateway.api.openai import messages as messages_module
from services.gateway.api.openai.chat import chat_completions
from services.gateway.api.openai.wire import MOST_REPEATED
from tests.fixtures.gateway import END, ScriptedStream, a_gateway
from tests.fixtures.handlers import asked, task_of, tasks_of
from tests.fixtures.openai_bodies import HELLO, WEATHER, a_named, a_tool, allowed, an_image

IMAGE = base64.b64encode(b"an image").decode()


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
        (
            {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"type": "object"}}},
            {"type": "object"},
        ),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, {"type": "object"}),
    ],
)
async def test_formats(given: Any, expected: Any) -> None:
    task = await task_of(chat_completions, {"model": "m", "messages": HELLO, "response_format": given})
    assert task.format == expected


async def test_choices_differ_by_their_seeds() -> None:
    body = {"model": "m", "messages": HELLO, "n": 3, "seed": 2**31 - 2, "logit_bias": {"7": -100, "8": 0.5}}
    tasks = await tasks_of(chat_completions, body)
    assert [task.options.seed for task in tasks] == [2**31 - 2, 2**31 - 1, 0]
    assert {task.options.logit_bias for task in tasks} == {((7, -100.0), (8, 0.5))}
    async with a_gateway() as gateway:
        answer = await asked(gateway, chat_completions, body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}


async def test_what_is_very_long_is_not_repeated() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "a" * (MOST_REPEATED // 8)}]}
    assert len(await tasks_of(chat_completions, {**body, "n": 7})) == 7
    with pytest.raises(InvalidRequest, match="'n' is too large"):
        await tasks_of(chat_completions, {**body, "n": 8})


@pytest.mark.parametrize(
    ("given", "offered", "choice"),
    [
        (None, ["weather", "time"], "auto"),
        ("auto", ["weather", "time"], "auto"),
        ("none", [], "auto"),
        ("required", ["weather", "time"], "required"),
        (a_named("time"), ["time"], "required"),
        (allowed("auto", "weather"), ["weather"], "auto"),
        (allowed("required", "time", "weather"), ["weather", "time"], "required"),
    ],
)
async def test_which_tools_may_or_must_be_called(given: Any, offered: list[str], choice: str) -> None:
    body = {"model": "tools", "messages": HELLO, "tools": [WEATHER, a_tool("time")], "tool_choice": given}
    task = await task_of(chat_completions, {**body, "parallel_tool_calls": False})
    assert [tool["function"]["name"] for tool in task.tools] == offered
    assert (task.tool_choice, task.parallel_tool_calls) == (choice, False)


async def test_parameters_of_tools_are_kept_whole() -> None:
    bound: dict[str, Any] = {"properties": {"x": {"type": "integer", "minimum": 1}}, "additionalProperties": False}
    tools = [a_tool(**bound), {"type": "function", "function": {"name": "f", "strict": True}}]
    task = await task_of(chat_completions, {"model": "tools", "messages": HELLO, "tools": tools})
    assert [tool["function"] for tool in task.tools] == [
        {"name": "weather", "parameters": {"type": "object", **bound}},
        {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True},
    ]


async def test_a_bound_nobody_can_build_is_none() -> None:
    """Clients bound texts by half a million characters, and their users cannot change it."""
    given: dict[str, Any] = {"properties": {"x": {"type": "string", "maxLength": 524288, "minLength": 1}}}
    task = await task_of(chat_completions, {"model": "tools", "messages": HELLO, "tools": [a_tool(**given)]})
    (tool,) = task.tools
    assert tool["function"]["parameters"]["properties"] == {"x": {"type": "string", "minLength": 1}}


async def test_roles_names_and_reasoning_of_history() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "hi", "name": "Ada"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "reasoning_content": "hm"},
        {"role": "assistant", "content": None, "refusal": "never"},
        {"role": "function", "name": "f", "content": ""},
    ]
    task = await task_of(chat_completions, {"model": "m", "messages": messages})
    assert task.messages == (
        ChatMessage(role="system", content="be\nbrief"),
        ChatMessage(role="user", content="hi"),
        ChatMessage(role="assistant", content="no", thinking="hm"),
        ChatMessage(role="assistant", content="never"),
        ChatMessage(role="tool", tool_name="f"),
    )


async def test_images_come_before_the_text_that_follows_them() -> None:
    data = an_image(f"data:image/png;base64,{IMAGE}")
    texts = [{"type": "text", "text": text} for text in ("a", "b")]
    messages = [{"role": "user", "content": [data, data, texts[0], data, texts[1]]}]
    task = await task_of(chat_completions, {"model": "tools", "messages": messages})
    assert [(each.images, each.content) for each in task.messages] == [((IMAGE, IMAGE), "a"), ((IMAGE,), "b")]


async def test_images_are_fetched_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(urls: list[str]) -> dict[str, str]:
        return {url: f"fetched {url}" for url in urls}

    monkeypatch.setattr(messages_module, "fetch_images", fetch)
    content = [an_image("https://example/x"), an_image(f"data:;base64,{IMAGE}")]
    body = {"model": "tools", "messages": [{"role": "user", "content": content}]}
    (task,) = await tasks_of(chat_completions, body, image_urls=True)
    assert task.messages[0].images == ("fetched https://example/x", IMAGE)


async def test_hints_change_nothing() -> None:
    hints = {"user": "u", "metadata": {"a": "b"}, "service_tier": "auto", "verbosity": "low", "store": False}
    more = {"safety_identifier": "s", "prompt_cache_key": "k", "modalities": ["text"], "unknown": 1, "seed": 1}
    plain = await task_of(chat_completions, {"model": "m", "messages": HELLO, "seed": 1})
    assert await task_of(chat_completions, {"model": "m", "messages": HELLO, **hints, **more}) == plain


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("minimal", "low"), ("high", "high"), ("xhigh", "max")])
async def test_effort(effort: str, think: Any) -> None:
    body = {"model": "thinker", "messages": HELLO}
    assert (await task_of(chat_completions, {**body, "reasoning_effort": effort})).think == think
    assert (await task_of(chat_completions, {**body, "reasoning": {"effort": effort}})).think == think


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
