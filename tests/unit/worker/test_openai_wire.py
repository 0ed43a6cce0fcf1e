from collections.abc import AsyncIterator

import httpx
import pytest

from libs.common.contracts.inference import ChatMessage, InferenceTask, ToolCall, ToolFunction
from services.worker.engines.openai_wire import conversation, error_text, server_sent_json
from tests.fixtures.builders import a_model

USER = {"role": "user", "content": "hi"}


def test_the_models_system_prompt_goes_first_unless_there_is_one() -> None:
    model = a_model(system="be kind")
    chat = InferenceTask(kind="chat", messages=(ChatMessage(role="user", content="hi"),))
    assert conversation(chat, model) == [{"role": "system", "content": "be kind"}, USER]
    own = chat.model_copy(update={"messages": (ChatMessage(role="system", content="be brief"), *chat.messages)})
    assert conversation(own, model) == [{"role": "system", "content": "be brief"}, USER]


def test_generate_is_a_chat_of_one_turn() -> None:
    model = a_model(system="be kind")
    task = InferenceTask(kind="generate", prompt="hi")
    assert conversation(task, model)[0]["content"] == "be kind"
    assert conversation(task.model_copy(update={"system": ""}), model) == [USER]


def test_tool_calls_carry_their_arguments_as_text() -> None:
    call = ToolCall(id="c1", function=ToolFunction(name="f", arguments={"x": 1}))
    task = InferenceTask(kind="chat", messages=(ChatMessage(role="assistant", tool_calls=(call,)),))
    function = {"name": "f", "arguments": '{"x":1}'}
    assert conversation(task, a_model())[0]["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_cut_anywhere(size: int) -> None:
    body = 'data: {"a":"x\u2028y"}\r\n\n: ping\n\ndata:{"b":2}\n\ndata: [DONE]\n\ndata: {"c":3}\n'.encode()

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    response = httpx.Response(200, content=chunks())
    assert [event async for event in server_sent_json(response)] == [{"a": "x\u2028y"}, {"b": 2}]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":{"message":"no","code":1}}', "no"),
        (b'{"error":"no"}', "no"),
        (b'{"message":"no"}', "no"),
        (b"no", "no"),
        (b'["odd"]', "['odd']"),
    ],
)
def test_error_bodies_of_any_shape(body: bytes, text: str) -> None:
    assert error_text(body) == text
