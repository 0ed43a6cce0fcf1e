"""Bodies of /v1/chat/completions that are refused before anything is asked of a worker."""

import json
from typing import Any

import pytest

from libs.common.errors import InvalidRequest
from services.gateway.api.openai.chat import chat_completions
from tests.fixtures.gateway import a_gateway
from tests.fixtures.handlers import asked
from tests.fixtures.openai_bodies import HELLO, WEATHER, a_named, a_tool, allowed, an_image

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
LONG_CALL = {"id": "c", "function": {"name": "f", "arguments": json.dumps({"x": [0] * 9_990})}}
DEEP_CALL = {"id": "c", "function": {"name": "f", "arguments": '{"x":' + "[" * 101 + "]" * 101 + "}"}}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 17}, "'n'"),
        ({"n": 0}, "'n'"),
        ({"n": True}, "of type int"),
        ({"stream": "yes"}, "of type bool"),
        ({"stream_options": {}}, "'stream_options'"),
        ({"store": True}, "'store'"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"user": 7}, "'user'"),
        ({"verbosity": []}, "'verbosity'"),
        ({"audio": {}}, "'audio'"),
        ({"modalities": ["text", "audio"]}, "'modalities'"),
        ({"functions": [{"name": "f"}]}, "'functions'"),
        ({"function_call": {"name": "f"}}, "'function_call'"),
        ({"prediction": {"type": "content", "content": ""}}, "'prediction'"),
        ({"web_search_options": {}}, "'web_search_options'"),
        ({"logit_bias": {"a": 2}}, "'logit_bias'"),
        ({"logit_bias": {"1": 101}}, "'logit_bias'"),
        ({"logit_bias": {"1": True}}, "'logit_bias'"),
        ({"logit_bias": {"9" * 30: 1}}, "'logit_bias'"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "'logit_bias'"),
        ({"tools": [WEATHER], "tool_choice": "any"}, "'tool_choice' must be"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "'tool_choice' must be"),
        ({"tools": [WEATHER], "tool_choice": a_named("other")}, "'tool_choice' names 'other'"),
        ({"tools": [WEATHER], "tool_choice": allowed("auto", "other")}, "'tool_choice' names 'other'"),
        ({"tools": [WEATHER], "tool_choice": allowed("auto")}, "'tool_choice' needs tools"),
        ({"tool_choice": "required"}, "'tool_choice' needs tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "'custom'"),
        ({"tools": [{"type": "function", "function": {}}]}, "name"),
        ({"tools": [a_tool(minItems=10**9)]}, "parameters of a tool: .*minItems"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"messages": []}, "too short"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role must be"),
        ({"messages": [{"content": "x"}]}, "role must be"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}] * 4000}] * 3}, "10000 parts"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL] * 1000}] * 11}, "10000 tool calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [LONG_CALL]}] * 11}, "100000 values"),
        ({"messages": [{"role": "assistant", "tool_calls": [DEEP_CALL]}]}, "levels deep"),
        ({"messages": [{"role": "user", "content": None}]}, "content type"),
        ({"messages": [{"role": "assistant", "content": {}, "tool_calls": [CALL]}]}, "content type"),
        ({"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]}, "'function_call'"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "'audio'"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "file"),
        ({"messages": [{"role": "user", "content": [an_image("http://x")]}]}, "image URLs"),
        ({"messages": [{"role": "user", "content": [an_image("x")]}]}, "invalid image"),
        ({"messages": [{"role": "user", "content": [an_image("data:image/png;base64,")]}]}, "invalid image"),
        ({"messages": [{"role": "user", "content": [an_image("data:image/png;base64,?")]}]}, "base64"),
        ({"messages": [{"role": "user", "content": [an_image("data:;base64,http://x")]}]}, "invalid image"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": ""}}]}]}, "arguments"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "schema' is required"),
        ({"response_format": {"json_schema": {"schema": {"a": 1}}}}, "response_format.type must be"),
        ({"response_format": {}}, "response_format.type must be"),
        ({"reasoning_effort": "huge"}, "reasoning"),
        ({"temperature": "hot"}, "temperature"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"model": ""}, "model is required"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -2}, "max_completion_tokens"),
    ],
)
async def test_what_is_not_understood_is_refused(changed: dict[str, Any], message: str) -> None:
    async with a_gateway() as gateway:
        with pytest.raises(InvalidRequest, match=message):
            await asked(gateway, chat_completions, {"model": "m", "messages": HELLO, **changed})
        assert gateway.started == []


@pytest.mark.parametrize(
    "changed",
    [
        {"stream_options": {}},
        {"response_format": {"type": "yaml"}},
        {"response_format": "json"},
        {"reasoning_effort": "huge"},
        {"logit_bias": {"a": 2}},
        {"temperature": "hot"},
        {"stop": 5},
        {"model": ""},
    ],
)
async def test_who_asks_is_told_which_field_is_wrong(changed: dict[str, Any]) -> None:
    async with a_gateway() as gateway:
        with pytest.raises(InvalidRequest) as refused:
            await asked(gateway, chat_completions, {"model": "m", "messages": HELLO, **changed})
    assert [refused.value.param] == [*changed]
