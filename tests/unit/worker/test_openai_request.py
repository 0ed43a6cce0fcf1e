import base64
from typing import Any

import pytest

from libs.common.contracts.inference import ChatMessage
from libs.common.errors import InvalidRequest
from services.worker.engines.openai_request import openai_request
from tests.fixtures.builders import a_model
from tests.fixtures.engines import chat, generate, job

TOOL = {"type": "function", "function": {"name": "f"}}
THINKS = a_model(capabilities=("completion", "thinking"))


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        ({}, {"temperature": 0.0, "seed": 0, "max_tokens": 12}),
        ({"num_predict": -1}, {"max_tokens": None}),
        ({"stop": ("x",)}, {"stop": ("x",)}),
        ({"tools": [TOOL]}, {"tools": (TOOL,), "tool_choice": None, "parallel_tool_calls": None}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": "required"}),
        ({"tools": [TOOL], "parallel_tool_calls": False}, {"tool_choice": None, "parallel_tool_calls": False}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"tool_choice": None, "parallel_tool_calls": None}),
        ({"logit_bias": ((5, -100), (7, 1.5))}, {"logit_bias": {"5": -100.0, "7": 1.5}}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"think": None}, {"chat_template_kwargs": None, "reasoning_effort": None}),
        ({"think": False}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ({"think": True}, {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": None}),
        ({"think": "low"}, {"chat_template_kwargs": None, "reasoning_effort": "low"}),
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
    ],
)
async def test_chat(changes: dict[str, Any], sent: dict[str, Any]) -> None:
    path, body = await openai_request(job(chat("hi", **changes), THINKS), "m")
    assert path == "chat/completions"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert {name: body.get(name) for name in sent} == sent


async def test_what_is_no_chat_is_a_completion() -> None:
    path, body = await openai_request(job(generate("hi", raw=True)), "m")
    assert (path, body["prompt"], body.get("suffix")) == ("completions", "hi", None)
    path, body = await openai_request(job(generate("", context=(1, 2), raw=True)), "m")
    assert (path, body["prompt"]) == ("completions", [1, 2])
    path, body = await openai_request(job(generate("def f(", suffix="return")), "m")
    assert (path, body["prompt"], body["suffix"]) == ("completions", "def f(", "return")


async def test_images() -> None:
    image = base64.b64encode(b"\xff\xd8\xff...").decode()
    _, body = await openai_request(job(generate("what?", images=(image,))), "m")
    assert body["messages"][0]["content"][0]["image_url"]["url"] == f"data:image/jpeg;base64,{image}"
    message = ChatMessage(role="user", images=(image,) * 65)
    with pytest.raises(InvalidRequest, match="too many images"):
        await openai_request(job(chat(messages=(message,))), "m")
