"""POST /api/chat"""

import re
from typing import Any, ClassVar

import httpx
import pytest

from tests.e2e.contract import ANY, MODEL, PACED, PIXEL, TOO_LONG, Case, assert_matches, check, stream, table

pytestmark = pytest.mark.e2e

CHAT = "POST /api/chat"
HELLO = [{"role": "user", "content": "Hello"}]
ECHO: dict[str, Any] = {"model": "echo", "messages": HELLO, "stream": False}
REAL: dict[str, Any] = {"model": MODEL, "messages": HELLO, "stream": False}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        },
    },
}
CALL_ID = re.compile("call_[A-Za-z0-9]{8}")
TOOL_CALL = {"id": CALL_ID, "function": {"index": 0, "name": "get_weather", "arguments": dict}}
CALLED = {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]}

TEXT_CALL = {"function": {"name": "f", "arguments": "{}"}}
LONG = {"role": "user", "content": "cat " * 300}


def asked(rule: str, status: int = 200, error: Any = ANY, **fields: Any) -> Case:
    """A small request to the echo engine, but for ``fields``."""
    return Case(rule, CHAT, {**ECHO, **fields}, status, {"error": error} if status != 200 else {"done": True})


class TestAnswers:
    async def test_whole(self, http: httpx.AsyncClient) -> None:
        message = {"role": "assistant", "content": "w0 w1"}
        expected = {"model": "echo", "message": message, "done": True, "done_reason": "length", "eval_count": 2}
        answer = await check(http, Case("", CHAT, {**ECHO, "options": {"num_predict": 2}}, 200, expected))
        assert "context" not in answer.json()

    async def test_streamed(self, http: httpx.AsyncClient) -> None:
        body = {**ECHO, "model": PACED, "stream": True, "options": {"num_predict": 5}}
        *chunks, last = await stream(http, CHAT, body)
        assert "".join(line["message"]["content"] for line in [*chunks, last]) == "w0 w1 w2 w3 w4"
        assert {frozenset(chunk) for chunk in chunks} == {frozenset({"model", "created_at", "message", "done"})}
        assert {line["message"]["role"] for line in [*chunks, last]} == {"assistant"}
        assert_matches(last, {"done": True, "done_reason": "length", "eval_count": 5})

    async def test_a_stop_string_ends_it(self, http: httpx.AsyncClient) -> None:
        expected = {"message": {"content": "w0 w1 "}, "done_reason": "stop"}
        await check(http, Case("", CHAT, {**ECHO, "options": {"stop": ["w2"]}}, 200, expected))

    @pytest.mark.real_model
    async def test_a_system_message_replaces_the_models(self, http: httpx.AsyncClient) -> None:
        messages = [{"role": "system", "content": "You are a pirate."}, *HELLO]
        case = Case("", CHAT, {**REAL, "messages": messages, "_debug_render_only": True})
        rendered = (await check(http, case)).json()["_debug_info"]["rendered_template"]
        assert rendered.count("<|im_start|>system") == 1
        assert "You are a pirate." in rendered

    @pytest.mark.real_model
    async def test_the_oldest_messages_are_dropped_when_there_are_too_many(self, http: httpx.AsyncClient) -> None:
        messages = [{"role": "user", "content": f"number{i} " + "cat " * 40} for i in range(10)]
        body = {**REAL, "messages": messages, "options": {"num_ctx": 128}, "_debug_render_only": True}
        rendered = (await check(http, Case("", CHAT, body))).json()["_debug_info"]["rendered_template"]
        assert "number0" not in rendered
        assert "number9" in rendered


class TestThinking:
    @pytest.mark.parametrize("think", [True, "low", "medium", "high", "max", None])
    async def test_it_comes_apart_and_first(self, http: httpx.AsyncClient, think: object) -> None:
        body = {"model": "echo-think", "messages": HELLO, "think": think}
        *chunks, _ = await stream(http, CHAT, body)
        thinks = ["thinking" in chunk["message"] for chunk in chunks]
        assert any(thinks)
        assert thinks == sorted(thinks, reverse=True)
        assert all(chunk["message"]["content"] == "" for chunk in chunks if "thinking" in chunk["message"])

    async def test_whole(self, http: httpx.AsyncClient) -> None:
        expected = {"message": {"role": "assistant", "content": re.compile("w0.*"), "thinking": re.compile("t0.*")}}
        await check(http, Case("", CHAT, {**ECHO, "model": "echo-think"}, 200, expected))

    async def test_off(self, http: httpx.AsyncClient) -> None:
        answer = await check(http, Case("", CHAT, {**ECHO, "model": "echo-think", "think": False}))
        assert "thinking" not in answer.json()["message"]


class TestTools:
    BODY: ClassVar = {"model": "echo-tools", "messages": HELLO, "tools": [TOOL]}

    async def test_a_call_comes_whole(self, http: httpx.AsyncClient) -> None:
        lines = await stream(http, CHAT, self.BODY)
        [calls] = [line["message"]["tool_calls"] for line in lines if "tool_calls" in line["message"]]
        assert_matches(calls[0], TOOL_CALL)
        assert lines[-1]["done_reason"] == "stop"

    async def test_in_a_whole_answer(self, http: httpx.AsyncClient) -> None:
        answer = (
            await check(http, Case("", CHAT, {**self.BODY, "stream": False}, 200, {"done_reason": "stop"}))
        ).json()
        [call] = answer["message"]["tool_calls"]
        assert_matches(call, TOOL_CALL)
        assert answer["message"]["content"] == ""

    async def test_no_tools_is_no_tools(self, http: httpx.AsyncClient) -> None:
        """ollama-python always sends the list."""
        answer = await check(http, Case("", CHAT, {**REAL, "tools": [], "options": {"num_predict": 1}}))
        assert "tool_calls" not in answer.json()["message"]

    @table(
        asked("named", messages=[*HELLO, CALLED, {"role": "tool", "tool_name": "get_weather", "content": "sun"}]),
        asked("with an id", messages=[*HELLO, CALLED, {"role": "tool", "tool_call_id": "x", "content": "sun"}]),
        asked("as LangChain sends it", messages=[*HELLO, CALLED, {"role": "tool", "content": "r"}], keep_alive=-1.0),
        asked("roles of any case and name", messages=[{"role": "Developer", "content": "a"}, {"role": "USER"}]),
        asked("arguments that are text", 400, str, messages=[{"role": "assistant", "tool_calls": [TEXT_CALL]}]),
    )
    async def test_history(self, http: httpx.AsyncClient, case: Case) -> None:
        await check(http, case)


class TestLoadAndUnload:
    @pytest.mark.parametrize("messages", [None, []])
    @pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), (0, "unload")])
    async def test_without_messages(
        self, http: httpx.AsyncClient, messages: object, keep_alive: object, reason: str
    ) -> None:
        body = {"model": "echo", "messages": messages, "keep_alive": keep_alive}
        expected = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason}
        answer = (await check(http, Case("", CHAT, body, 200, expected))).json()
        assert set(answer) == {"model", "created_at", "message", "done", "done_reason"}


@table(
    asked("unknown model", 404, "model 'no' not found", model="no"),
    asked("unknown model to unload", 404, "model 'no' not found", model="no", messages=[], keep_alive=0),
    asked("no model", 400, "model is required", model=""),
    asked("malformed name", 400, "invalid model name", model="a:b:c"),
    asked("no tools", 400, f"registry.ollama.ai/library/{MODEL} does not support tools", model=MODEL, tools=[TOOL]),
    asked("no thinking", 400, f'"{MODEL}" does not support thinking', model=MODEL, think="high"),
    asked("think level", 400, re.compile(r'invalid think value: "x" \(must be .*\)'), think="x"),
    asked("no images", 400, re.compile(".*image input.*"), model=MODEL, messages=[{"role": "user", "images": [PIXEL]}]),
    asked("messages of no kind", 400, re.compile("json: cannot unmarshal string .*"), messages="hi"),
    asked("top_logprobs", 400, "top_logprobs must be between 0 and 20", top_logprobs=21),
    asked("too long", 400, TOO_LONG, model=MODEL, messages=[LONG], truncate=False, options={"num_ctx": 64}),
)
async def test_refusals(http: httpx.AsyncClient, case: Case) -> None:
    await check(http, case)


@table(
    asked("unknown model", 404, "model 'no' not found", model="no", stream=True),
    asked("no thinking", 400, f'"{MODEL}" does not support thinking', model=MODEL, think=True, stream=True),
)
async def test_a_stream_that_is_refused_has_a_status(http: httpx.AsyncClient, case: Case) -> None:
    await check(http, case)
