"""/v1/responses: what becomes of each field and item, what is refused, and the reply as OpenAI's client reads it."""

import base64
from typing import Any

import httpx
import pytest
from openai.types.responses import Response
from starlette.datastructures import Headers

from libs.common.contracts.auth.identity import VerifyKey
from libs.common.contracts.inference import ChatMessage, InferenceTask, ToolCall, ToolFunction
from libs.common.contracts.tokens import Logprob, StreamEnd, TopLogprob, Usage
from libs.common.errors import ContextExceeded, EngineFailed, InvalidRequest, ServiceError, UnsupportedByModel
from services.gateway.api.door import Call
from services.gateway.api.openai.errors import error_body
from services.gateway.api.openai.responses.create import create
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway

IMAGE = base64.b64encode(b"an image").decode()
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
CRM = {
    "type": "namespace",
    "name": "crm",
    "description": "customers",
    "tools": [{"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}}],
}
CUT_SHORT = StreamEnd(done_reason="length", usage=Usage(prompt_tokens=5, completion_tokens=2))


DEEP: Any = "deep"
for _ in range(300):
    DEEP = [DEEP]


async def reply(http: httpx.AsyncClient, **body: Any) -> Response:
    """Checked as strictly as OpenAI's types are."""
    answer = await http.post("/v1/responses", json={"model": "m", "input": "hi", **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert Response.model_fields.keys() - OF_OTHERS - answer.json().keys() == set()
    return Response.model_validate(answer.json(), strict=True)


OF_OTHERS = {
    *("access_programs", "image", "input_transformations", "prompt_cache_diagnostics", "prompt_cache_options"),
    *("prompt_cache_retention", "tool_usage"),
}
"""Fields about what only OpenAI has."""


async def task_of(body: dict[str, Any]) -> InferenceTask:
    async with a_gateway() as gateway:
        given = {"model": "m", "input": "hi", **body}
        await create(Call(gateway.ctx, an_identity(), Headers(), {}, given))
        return gateway.task


async def test_a_reply(gateway: Gateway, http: httpx.AsyncClient) -> None:
    shown = await reply(http, metadata={"a": "b"}, instructions="be nice", user="u", service_tier="auto")
    request_id = gateway.streams[0].request_id
    assert (shown.id, shown.object, shown.status, shown.output_text) == (
        f"resp_{request_id}",
        "response",
        "completed",
        "Hello",
    )
    assert shown.output[0].id == f"msg_{request_id}_0"
    assert shown.usage is not None
    assert (shown.usage.input_tokens, shown.usage.output_tokens, shown.usage.total_tokens) == (5, 3, 8)
    assert (shown.metadata, shown.instructions, shown.user) == ({"a": "b"}, "be nice", "u")
    assert shown.completed_at is not None
    assert shown.completed_at >= shown.created_at > 1e9
    assert (shown.error, shown.incomplete_details, shown.previous_response_id) == (None, None, None)
    assert shown.model_extra == {"store": False}


async def test_options(gateway: Gateway, http: httpx.AsyncClient) -> None:
    plain = (await task_of({})).options
    assert (plain.temperature, plain.top_p, plain.num_predict) == (1.0, 1.0, -1)
    given = {"temperature": 0, "top_p": 0.5, "max_output_tokens": 7, "max_tool_calls": 3, "truncation": "disabled"}
    shown = await reply(http, **given)
    options = gateway.task.options
    assert (options.temperature, options.top_p, options.num_predict) == (0, 0.5, 7)
    assert not gateway.task.truncate
    assert (shown.temperature, shown.top_p, shown.max_output_tokens) == (0, 0.5, 7)
    assert (shown.max_tool_calls, shown.truncation) == (3, "disabled")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"format": {"type": "text"}, "verbosity": "low"}, None),
        ({"format": {"type": "json_object"}}, "json"),
        ({"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}, {"type": "object"}),
    ],
)
async def test_formats(gateway: Gateway, http: httpx.AsyncClient, text: Any, expected: Any) -> None:
    shown = await reply(http, text=text)
    assert gateway.task.format == expected
    assert shown.text is not None
    assert shown.text.format is not None
    assert (shown.text.format.type, shown.text.verbosity) == (text["format"]["type"], text.get("verbosity", "medium"))


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("minimal", "low"), ("high", "high"), ("xhigh", "max")])
async def test_effort(gateway: Gateway, http: httpx.AsyncClient, effort: str, think: Any) -> None:
    shown = await reply(http, model="thinker", reasoning={"effort": effort, "summary": "auto"})
    assert gateway.task.think == think
    assert shown.reasoning is not None
    assert (shown.reasoning.effort, shown.reasoning.summary) == (effort, "auto")


def said(*messages: ChatMessage) -> tuple[ChatMessage, ...]:
    return messages


CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}
CALLED = ToolCall(id="c1", function=ToolFunction(name="weather", arguments={"city": "Rome"}))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hi", said(ChatMessage(role="user", content="hi"))),
        ([{"role": "developer", "content": "be brief"}], said(ChatMessage(role="system", content="be brief"))),
        (
            [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}],
            said(ChatMessage(role="user", content="a")),
        ),
        (
            [
                {"type": "reasoning", "summary": [], "encrypted_content": "hm"},
                {"role": "assistant", "content": [{"type": "output_text", "text": "I call"}]},
                CALL,
                {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "sunny"}]},
                {"type": "web_search_call", "id": "ws", "status": "completed"},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
                {"role": "assistant", "content": "really"},
                {"role": "user", "content": "why?"},
            ],
            said(
                ChatMessage(role="assistant", content="I call", thinking="hm", tool_calls=(CALLED,)),
                ChatMessage(role="tool", content="sunny", tool_call_id="c1", tool_name="weather"),
                ChatMessage(role="assistant", content="no", thinking="so"),
                ChatMessage(role="assistant", content="really"),
                ChatMessage(role="user", content="why?"),
            ),
        ),
        (
            [
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "summary": []},
                {**CALL, "namespace": "geo"},
                {**CALL, "call_id": "c2"},
                {"type": "function_call_output", "call_id": "c1", "output": "1"},
                {"type": "function_call_output", "call_id": "c2", "output": "2"},
            ],
            said(
                ChatMessage(
                    role="assistant",
                    thinking="hm",
                    tool_calls=(
                        ToolCall(id="c1", function=ToolFunction(name="geo.weather", arguments={"city": "Rome"})),
                        CALLED.model_copy(update={"id": "c2"}),
                    ),
                ),
                ChatMessage(role="tool", content="1", tool_call_id="c1", tool_name="geo.weather"),
                ChatMessage(role="tool", content="2", tool_call_id="c2", tool_name="weather"),
            ),
        ),
    ],
)
async def test_items_become_messages(given: Any, expected: tuple[ChatMessage, ...]) -> None:
    assert (await task_of({"input": given})).messages == expected


async def test_instructions_come_first() -> None:
    messages = (await task_of({"instructions": "be nice"})).messages
    assert messages == (ChatMessage(role="system", content="be nice"), ChatMessage(role="user", content="hi"))


async def test_images_stand_where_they_were() -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{IMAGE}", "detail": "auto"}
    parts = [{"type": "input_text", "text": "look"}, image, {"type": "input_text", "text": "well"}]
    task = await task_of({"model": "tools", "input": [{"role": "user", "content": parts}]})
    assert [(message.content, message.images) for message in task.messages] == [("look", ()), ("well", (IMAGE,))]


async def test_tools_and_which_of_them_may_be_called(gateway: Gateway, http: httpx.AsyncClient) -> None:
    tools = {"model": "tools", "tools": [WEATHER, CRM]}

    async def offered(choice: Any) -> tuple[list[str], str]:
        shown = await reply(http, **tools, tool_choice=choice)
        assert [tool.type for tool in shown.tools] == ["function", "namespace"]
        return [tool["function"]["name"] for tool in gateway.task.tools], gateway.task.tool_choice

    both = ["weather", "crm.find"]
    assert await offered("auto") == (both, "auto")
    assert await offered("none") == ([], "auto")
    assert await offered("required") == (both, "required")
    assert await offered({"type": "function", "name": "weather"}) == (["weather"], "required")
    find = {"type": "function", "name": "find", "namespace": "crm"}
    assert await offered({"type": "allowed_tools", "mode": "auto", "tools": [find]}) == (["crm.find"], "auto")
    await reply(http, model="tools", tools=[{"type": "web_search", "external_web_access": False}, WEATHER])
    assert [tool["function"]["name"] for tool in gateway.task.tools] == ["weather"]
    await reply(http, **tools, parallel_tool_calls=False)
    assert not gateway.task.parallel_tool_calls


async def test_thoughts_text_and_calls_of_an_answer(gateway: Gateway, http: httpx.AsyncClient) -> None:
    calls = [
        {"id": "c", "function": {"name": "weather", "arguments": {"city": "R\u00f6m"}}},
        {"function": {"name": "crm.find"}},
    ]
    gateway.play = lambda _: ScriptedStream().say(thinking="hm").say("I call", tool_calls=calls).say(end=END)
    shown = await reply(http, model="tools", tools=[WEATHER, CRM], include=["reasoning.encrypted_content"])
    thought, message, first, second = shown.output
    assert thought.type == "reasoning"
    assert (thought.summary[0].text, thought.encrypted_content) == ("hm", "hm")
    assert shown.output_text == "I call"
    assert message.id == f"msg_{gateway.streams[0].request_id}_1"
    assert first.type == second.type == "function_call"
    assert (first.call_id, first.name, first.arguments) == ("c", "weather", '{"city": "R\u00f6m"}')
    assert (second.namespace, second.name, second.arguments) == ("crm", "find", "{}")
    assert second.call_id == f"call_{gateway.streams[0].request_id}_3"
    assert shown.usage is not None
    assert 0 < shown.usage.output_tokens_details.reasoning_tokens < shown.usage.output_tokens


async def test_logprobs(gateway: Gateway, http: httpx.AsyncClient) -> None:
    entry = Logprob("a", -0.5, b"a", [TopLogprob("b", -1.0, b"b")])
    gateway.play = lambda _: ScriptedStream().say("a", logprobs=[entry]).say(end=END)
    shown = await reply(http, include=["message.output_text.logprobs"], top_logprobs=1)
    assert (gateway.task.logprobs, gateway.task.top_logprobs) == (True, 1)
    (message,) = shown.output
    assert message.type == "message"
    assert message.content[0].type == "output_text"
    assert message.content[0].logprobs is not None
    (told,) = message.content[0].logprobs
    assert (told.token, told.logprob, told.bytes, told.top_logprobs[0].token) == ("a", -0.5, [97], "b")


async def test_an_answer_cut_short_is_incomplete(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().say("a").say(end=CUT_SHORT)
    shown = await reply(http)
    assert shown.status == "incomplete"
    assert shown.incomplete_details is not None
    assert shown.incomplete_details.reason == "max_output_tokens"
    assert shown.completed_at is None


async def test_how_long_a_prompt_is(gateway: Gateway, http: httpx.AsyncClient) -> None:
    gateway.play = lambda _: ScriptedStream().say(end=StreamEnd(prompt_length=7))
    answer = await http.post("/v1/responses/input_tokens", json={"model": "m", "input": "hi"})
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": 7}
    assert gateway.task.debug_render_only


@pytest.mark.parametrize(
    ("changed", "message", "param"),
    [
        ({"input": None}, "input is required", "input"),
        ({"input": []}, "empty", "input"),
        ({"input": 7}, "input is required", "input"),
        ({"input": [{"type": "magic"}]}, 'input[0]: unknown input item type: "magic"', "input[0]"),
        ({"input": ["text"]}, "input[0]", "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0]: role must be", "input[0]"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0]: content", "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input_file", "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "files", "input[0]"),
        ({"input": [{**CALL, "arguments": "[]"}]}, "invalid tool call arguments", "input[0]"),
        ({"input": [{"type": "item_reference", "id": "nothing"}]}, "there is no item 'nothing'", "input[0]"),
        ({"input": [{"role": "user", "content": "x"}] * 10_001}, "10000", "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}] * 6000}] * 2}, "10000 parts", "input[1]"),
        ({"unknown": DEEP}, "100 levels", None),
        ({"user": 7}, "'user'", "user"),
        ({"max_tool_calls": "x"}, "max_tool_calls", "max_tool_calls"),
        ({"conversation": "c"}, "'conversation'", "conversation"),
        ({"prompt": {"id": "p"}}, "'prompt'", "prompt"),
        ({"include": ["everything"]}, "'everything'", "include"),
        ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs", "top_logprobs"),
        ({"truncation": "always"}, "truncation", "truncation"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format", "text.format"),
        ({"tools": [{"type": "file_search"}]}, "tools[0]: tools of type 'file_search'", "tools[0]"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "is required", "text.format.schema"),
        ({"tools": [{"type": "custom", "name": "c"}]}, "'custom'", "tools[0]"),
        ({"tools": [{"type": "function"}]}, "name is required", "tools[0]"),
        ({"tools": [{**CRM, "tools": [{"type": "custom", "name": "c"}]}]}, "'custom'", "tools[0].tools"),
        ({"tool_choice": "required"}, "tool", "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "'f'", "tool_choice"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice", "tool_choice"),
        ({"metadata": {"a": "b" * 513}}, "metadata", "metadata"),
        ({"background": True, "store": False}, "stored", "store"),
        ({"stream": "yes"}, "stream", "stream"),
        ({"reasoning": {"effort": "insane"}}, "insane", None),
        ({"model": ""}, "model is required", None),
    ],
)
async def test_refusals_name_the_field(changed: dict[str, Any], message: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await task_of(changed)
    assert message in raised.value.message
    if param is not None:
        assert error_body(raised.value)["error"]["param"] == param


async def test_what_the_model_cannot_do_is_refused() -> None:
    for body in ({"tools": [WEATHER]}, {"reasoning": {"effort": "high"}}, {"model": "embedder"}):
        with pytest.raises(UnsupportedByModel):
            await task_of(body)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(ContextExceeded(), 400, "context_length_exceeded"), (EngineFailed("it broke"), 500, "engine_failed")],
)
async def test_errors_before_the_first_token_have_their_status(
    gateway: Gateway, http: httpx.AsyncClient, error: ServiceError, status: int, code: str
) -> None:
    gateway.play = lambda _: ScriptedStream().fail(error)
    for stream in (True, False):
        answer = await http.post("/v1/responses", json={"model": "m", "input": "hi", "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_who_insists_on_what_cannot_be_kept_is_told_so(http: httpx.AsyncClient) -> None:
    """Nobody without credentials has anything kept; nobody at all where nothing is."""
    for insists in ({"store": True}, {"background": True}):
        answer = await http.post("/v1/responses", json={"model": "m", "input": "hi", **insists})
        assert answer.status_code == 401
    async with a_gateway(response_days=0) as gateway, gateway.client(Authorization="Bearer omx_key") as known:
        gateway.bus.answers[VerifyKey] = lambda _query: an_identity("user", stores_prompts=True)
        for insists in ({"store": True}, {"background": True}):
            answer = await known.post("/v1/responses", json={"model": "m", "input": "hi", **insists})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, min(insists))
        answer = await known.post("/v1/responses", json={"model": "m", "input": "hi"})
        assert answer.json()["store"] is False
