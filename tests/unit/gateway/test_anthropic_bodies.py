"""/v1/messages and /v1/messages/count_tokens: what becomes of each field, what is refused, and what is answered."""

import base64
from typing import Any

import httpx
import pytest
from anthropic.types import Message

from libs.common.contracts.inference import ChatMessage, InferenceTask, ToolCall, ToolFunction
from libs.common.contracts.tokens import StreamEnd, Usage
from libs.common.errors import (
    ContextExceeded,
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    RateLimited,
    ServiceError,
    Unavailable,
    UnsupportedByModel,
)
from services.gateway.api.openai import messages as openai_messages
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway

IMAGE = base64.b64encode(b"an image").decode()
AN_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}}
WEATHER = {
    "name": "weather",
    "description": "tells it",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIME = {"type": "custom", "name": "time", "input_schema": {"type": "object", "properties": {}}}
CALL = {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}}


def a_body(*content: Any, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content[0] if len(content) == 1 else list(content)}]
    return {"model": "m", "max_tokens": 20, "messages": messages if content else [], **more}


def a_call(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": "c", "name": "weather", "input": arguments}


HELLO = a_body("hello")


async def task_of(gateway: Gateway, http: httpx.AsyncClient, body: dict[str, Any]) -> InferenceTask:
    response = await http.post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    return gateway.task


async def refusal(http: httpx.AsyncClient, body: dict[str, Any], path: str = "/v1/messages") -> str:
    response = await http.post(path, json=body)
    assert (response.status_code, response.json()["type"]) == (400, "error"), response.text
    error: dict[str, str] = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["message"]


async def test_a_message_is_answered_as_anthropic_does(gateway: Gateway, http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/messages?beta=true", json=HELLO, headers={"anthropic-version": "2023-06-01"})
    request_id = gateway.streams[0].request_id
    assert response.json() == {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 3,
        },
    }
    assert response.headers["request-id"] == f"req_{request_id}"
    assert gateway.streams[0].closed.is_set()


async def test_thinking_comes_before_text_and_calls_last(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().say("a", thinking="hm").say("b", tool_calls=[CALL]).say("c", end=END)
    answer = (await http.post("/v1/messages", json=HELLO)).json()
    Message.model_validate(answer, strict=True)
    thinking, text, call = answer["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "hm")
    assert thinking["signature"]
    assert text == {"type": "text", "text": "abc"}
    assert call == {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}
    assert answer["stop_reason"] == "tool_use"


async def test_thinking_that_is_not_to_be_shown_is_an_empty_block(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().say("a", thinking="hm").say(end=END)
    thinking = {"type": "adaptive", "display": "omitted"}
    answer = (await http.post("/v1/messages", json={**HELLO, "model": "thinker", "thinking": thinking})).json()
    assert (answer["content"][0]["thinking"], answer["content"][1]["text"]) == ("", "a")
    assert answer["content"][0]["signature"]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (StreamEnd(), ("end_turn", None)),
        (StreamEnd("length"), ("max_tokens", None)),
        (StreamEnd(stop_sequence="END"), ("stop_sequence", "END")),
        (StreamEnd(stop_sequence="<|the model's own|>"), ("end_turn", None)),
    ],
)
async def test_why_it_stops(
    gateway: Gateway, http: httpx.AsyncClient, end: StreamEnd, expected: tuple[str, str | None]
) -> None:
    gateway.play = lambda _: ScriptedStream().say(end=end)
    answer = (await http.post("/v1/messages", json={**HELLO, "stop_sequences": ["STOP", "END"]})).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == expected
    assert answer["content"] == []


async def test_what_is_absent_is_left_to_the_model_but_thinking(gateway: Gateway, http: httpx.AsyncClient) -> None:
    task = await task_of(gateway, http, HELLO)
    assert task == InferenceTask(
        kind="chat",
        messages=(ChatMessage(role="user", content="hello"),),
        truncate=False,
        options=task.options.model_copy(update={"num_predict": 20, "temperature": 0.8, "top_k": 40, "top_p": 0.9}),
    )


async def test_options(gateway: Gateway, http: httpx.AsyncClient) -> None:
    given = {"temperature": 0, "top_p": 0.5, "top_k": 7, "stop_sequences": ["a", "b"]}
    options = (await task_of(gateway, http, {**HELLO, **given})).options
    assert (options.num_predict, options.temperature, options.top_p, options.top_k) == (20, 0, 0.5, 7)
    assert options.stop == ("a", "b")


@pytest.mark.parametrize("system", ["be kind", [{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}]])
async def test_the_system_prompt_is_the_first_message(
    gateway: Gateway, http: httpx.AsyncClient, system: str | list[dict[str, str]]
) -> None:
    task = await task_of(gateway, http, {**HELLO, "system": system})
    assert [message.role for message in task.messages] == ["system", "user"]
    assert task.messages[0].content.split() == ["be", "kind"]


async def test_a_conversation_with_everything_in_it(gateway: Gateway, http: httpx.AsyncClient) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, AN_IMAGE, {"type": "text", "text": "here"}]},
        {"role": "system", "content": "be quick"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I a"},
                {"type": "text", "text": "sk", "citations": None},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "c2", "name": "time", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "and now?", "cache_control": {"type": "ephemeral"}},
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "sun"}, AN_IMAGE]},
                {"type": "tool_result", "tool_use_id": "c2", "content": "no clock", "is_error": True},
            ],
        },
    ]
    body = {**HELLO, "model": "tools", "messages": messages, "tools": [WEATHER, TIME]}
    calls = (
        ToolCall(id="c1", function=ToolFunction(name="weather", arguments={"city": "Rome"})),
        ToolCall(id="c2", function=ToolFunction(name="time")),
    )
    assert (await task_of(gateway, http, body)).messages == (
        ChatMessage(role="user", content="look\n\nhere", images=(IMAGE,)),
        ChatMessage(role="system", content="be quick"),
        ChatMessage(role="assistant", content="I ask", thinking="hm", tool_calls=calls),
        ChatMessage(role="tool", content="sun", tool_call_id="c1", tool_name="weather"),
        ChatMessage(role="tool", content="Error: no clock", tool_call_id="c2", tool_name="time"),
        ChatMessage(role="user", content="and now?", images=(IMAGE,)),
    )


async def test_neighbours_of_one_role_are_one_turn(gateway: Gateway, http: httpx.AsyncClient) -> None:
    turns = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")]
    messages = [{"role": role, "content": content} for role, content in turns]
    task = await task_of(gateway, http, {**HELLO, "messages": messages})
    assert [(message.role, message.content) for message in task.messages] == [
        ("user", "a\n\nb"),
        ("assistant", "cd"),
        ("user", "e"),
    ]


async def test_results_of_tools_alone_make_no_turn_of_the_user(gateway: Gateway, http: httpx.AsyncClient) -> None:
    task = await task_of(gateway, http, a_body([{"type": "tool_result", "tool_use_id": "c"}]))
    assert task.messages == (ChatMessage(role="tool", tool_call_id="c"),)


async def test_tools_are_told_in_the_shape_of_all_dialects(gateway: Gateway, http: httpx.AsyncClient) -> None:
    task = await task_of(gateway, http, {**HELLO, "model": "tools", "tools": [WEATHER, TIME]})
    weather, time = task.tools
    assert weather["type"] == "function"
    assert weather["function"]["name"] == "weather"
    assert weather["function"]["parameters"] == WEATHER["input_schema"]
    assert weather["function"]["description"] == "tells it"
    assert time["function"]["name"] == "time"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, (2, "auto", True)),
        ({"type": "auto"}, (2, "auto", True)),
        ({"type": "auto", "disable_parallel_tool_use": True}, (2, "auto", False)),
        ({"type": "any"}, (2, "required", True)),
        ({"type": "tool", "name": "time", "disable_parallel_tool_use": True}, (1, "required", False)),
        ({"type": "none"}, (0, "auto", True)),
    ],
)
async def test_tool_choice(
    gateway: Gateway, http: httpx.AsyncClient, choice: dict[str, Any] | None, expected: tuple[int, str, bool]
) -> None:
    task = await task_of(gateway, http, {**HELLO, "model": "tools", "tools": [WEATHER, TIME], "tool_choice": choice})
    assert (len(task.tools), task.tool_choice, task.parallel_tool_calls) == expected


@pytest.mark.parametrize(
    ("given", "think"),
    [
        ({}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, False),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"thinking": {"type": "enabled"}, "output_config": {"effort": "xhigh"}}, "high"),
        ({"thinking": {"type": "enabled"}, "output_config": {"effort": "max"}}, "max"),
        ({"output_config": {"effort": "high"}}, False),
    ],
)
async def test_thinking(gateway: Gateway, http: httpx.AsyncClient, given: dict[str, Any], think: Any) -> None:
    assert (await task_of(gateway, http, {**HELLO, "model": "thinker", **given})).think == think
    assert (await task_of(gateway, http, {**HELLO, **given})).think is None


@pytest.mark.parametrize("where", [("output_config", "format"), ("output_format",)])
async def test_structured_output(gateway: Gateway, http: httpx.AsyncClient, where: tuple[str, ...]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    given: dict[str, Any] = {"type": "json_schema", "schema": schema}
    for name in reversed(where):
        given = {name: given}
    assert (await task_of(gateway, http, {**HELLO, **given})).format == schema


async def test_hints_change_nothing(gateway: Gateway, http: httpx.AsyncClient) -> None:
    hints: dict[str, Any] = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "cache_control": {"type": "ephemeral"},
        "inference_geo": "eu",
        "container": None,
        "mcp_servers": [],
        "context_management": {"edits": []},
    }
    task = await task_of(gateway, http, {**HELLO, **hints})
    plain = await task_of(gateway, http, HELLO)
    assert task.model_copy(update={"options": plain.options}) == plain


def a_tool(**changed: Any) -> dict[str, Any]:
    return {"model": "tools", "tools": [{**WEATHER, **changed}]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": ""}, "model is required"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": 0}, "max_tokens is required and must be positive"),
        ({"messages": []}, "messages is required"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unexpected role 'tool'"),
        ({"messages": [{"role": "user"}]}, "content must be a text or a list of blocks"),
        (a_body([{"type": "document", "source": {}}]), "'document' is not supported"),
        (a_body([{"type": "image", "source": {"type": "file", "file_id": "f"}}]), "'file' is not supported"),
        (a_body([{"type": "image", "source": {"type": "url", "url": "ftp://x"}}]), "invalid image"),
        (a_body([{"type": "image", "source": {"type": "url", "url": "https://x/y"}}]), "image URLs are not"),
        (
            a_body([{"type": "image", "source": {"type": "base64", "data": "https://x/y"}}], model="tools"),
            "invalid image",
        ),
        (a_body([{**AN_IMAGE, "source": {"type": "base64", "data": "!"}}], model="tools"), "illegal base64"),
        (a_body([AN_IMAGE]), "image input"),
        (a_body([{"type": "text", "text": "a"}] * 10_001), "more than 10000"),
        (a_body([{"text": "a"}]), "must have a type"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "x", "input": {}}]}]},
            "needs an id and a name",
        ),
        (
            {"messages": [{"role": "assistant", "content": [a_call({"of": [0] * 40_000}) for _ in range(3)]}]},
            "more than 100000 values",
        ),
        ({"system": 1}, "system must be"),
        ({"temperature": 1.5}, "temperature must be a number from 0 to 1"),
        ({"top_p": True}, "top_p must be a number from 0 to 1"),
        ({"tools": [WEATHER]}, "does not support tools"),
        (a_tool(type="web_search_20250305"), "'web_search_20250305' are not available"),
        (a_tool(name=""), "must have a name"),
        (a_tool(input_schema=None), "input_schema"),
        ({**a_tool(), "tool_choice": {"type": "tool", "name": "other"}}, "names 'other', which is not among the tools"),
        ({**a_tool(), "tool_choice": {"type": "some"}}, "tool_choice.type must be"),
        ({"tool_choice": {"type": "any"}}, "needs tools to choose from"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type must be"),
        ({"thinking": {"type": "enabled", "display": "all"}}, "thinking.display must be"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort must be"),
        ({"output_config": {"format": {"type": "xml"}}}, "format.type must be json_schema"),
        ({"output_config": {"format": {}}}, "format.type must be json_schema"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "format.schema is required"),
        ({"container": "c"}, "container is not supported"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers is not supported"),
    ],
)
async def test_refusals(http: httpx.AsyncClient, given: dict[str, Any], words: str) -> None:
    assert words in await refusal(http, {**HELLO, **given})


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ContextExceeded(), 400, "invalid_request_error"),
        (RateLimited(), 429, "rate_limit_error"),
        (EngineFailed(), 500, "api_error"),
        (Unavailable(), 503, "overloaded_error"),
        (Overloaded(), 529, "overloaded_error"),
        (DeadlineExceeded(), 504, "timeout_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors(
    gateway: Gateway, http: httpx.AsyncClient, error: ServiceError, status: int, kind: str, *, stream: bool
) -> None:
    gateway.play = lambda _: ScriptedStream().fail(error)
    response = await http.post("/v1/messages", json={**HELLO, "stream": stream})
    request_id = f"req_{gateway.streams[0].request_id}"
    expected = {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
    assert (response.status_code, response.json()) == (status, expected)
    assert response.headers["request-id"] == request_id


async def test_an_unknown_model_is_not_found(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/messages", json={**HELLO, "model": "nobody"})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


async def test_tokens_are_counted_without_an_answer(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().say(end=StreamEnd(prompt_length=42, usage=Usage()))
    body = {"model": "tools", "messages": HELLO["messages"], "system": "s", "tools": [WEATHER]}
    response = await http.post("/v1/messages/count_tokens", json=body)
    assert response.json() == {"input_tokens": 42}
    assert gateway.task.debug_render_only
    assert [message.role for message in gateway.task.messages] == ["system", "user"]
    assert len(gateway.task.tools) == 1


async def test_tokens_of_what_cannot_be_rendered_are_estimated(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().fail(UnsupportedByModel())
    response = await http.post("/v1/messages/count_tokens", json=a_body("x" * 400))
    assert response.json() == {"input_tokens": 100}


async def test_counting_refuses_what_a_message_would_be_refused_for(http: httpx.AsyncClient) -> None:
    assert "messages is required" in await refusal(http, a_body(), "/v1/messages/count_tokens")


async def test_an_image_may_be_named_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetched(urls: list[str]) -> dict[str, str]:
        return dict.fromkeys(urls, IMAGE)

    monkeypatch.setattr(openai_messages, "fetch_images", fetched)
    address = "https://pictures.example/a.png"
    image = {"type": "image", "source": {"type": "url", "url": address}}
    async with a_gateway(image_urls=True) as gateway, gateway.client() as http:
        task = await task_of(gateway, http, a_body([AN_IMAGE, image], model="tools"))
        no_base64 = {"type": "image", "source": {"type": "base64", "data": address}}
        assert await refusal(http, a_body([no_base64], model="tools")) == "invalid image input"
    assert task.messages[0].images == (IMAGE, IMAGE)
