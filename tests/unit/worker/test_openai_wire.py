import base64
import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from libs.common.contracts.inference import ChatMessage, ToolCall, ToolFunction
from libs.common.contracts.tokens import Logprob, TopLogprob
from libs.common.errors import EngineFailed
from services.worker.engines.openai_wire import error_text, read_logprobs, server_sent_json, wire_messages


def test_tool_calls_carry_their_arguments_as_text() -> None:
    call = ToolCall(id="c1", function=ToolFunction(name="f", arguments={"x": 1}))
    [wire] = wire_messages([ChatMessage(role="assistant", tool_calls=(call,))], reasoning=False)
    function = {"name": "f", "arguments": '{"x":1}'}
    assert wire["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]


def test_a_result_names_its_call() -> None:
    message = ChatMessage(role="tool", content="r", tool_call_id="c1", tool_name="f")
    assert wire_messages([message], reasoning=False) == [
        {"role": "tool", "content": "r", "tool_call_id": "c1", "name": "f"}
    ]


@pytest.mark.parametrize(("reasoning", "sent"), [(True, {"reasoning_content": "hm"}), (False, {})])
def test_thinking_goes_only_where_it_is_known(reasoning: bool, sent: dict[str, str]) -> None:
    message = ChatMessage(role="assistant", content="x", thinking="hm")
    assert wire_messages([message], reasoning=reasoning) == [{"role": "assistant", "content": "x", **sent}]


def test_images_are_data_uris_in_front_of_the_text() -> None:
    image = base64.b64encode(b"\x89PNG\r\n\x1a\n...").decode()
    [wire] = wire_messages([ChatMessage(role="user", content="x", images=(image,))], reasoning=False)
    assert wire["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "text", "text": "x"},
    ]


def test_logprobs_are_sorted_cut_and_have_bytes() -> None:
    others = [{"token": "b", "logprob": -2.0, "bytes": [98]}, {"token": "\ufffd", "logprob": -1.0, "bytes": [240]}]
    entry = {"token": "é", "logprob": -1.5, "top_logprobs": others}
    assert read_logprobs([entry], 2) == (
        Logprob("é", -1.5, "é".encode(), [TopLogprob("\ufffd", -1.0, b"\xf0"), TopLogprob("b", -2.0, b"b")]),
    )
    assert read_logprobs([entry], 1)[0].top == [TopLogprob("\ufffd", -1.0, b"\xf0")]


@pytest.mark.parametrize("entry", [{"token": "a", "logprob": None}, {"token": "a"}, {"token": "a", "logprob": "much"}])
def test_what_is_no_logprob_gets_into_no_frame(entry: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_logprobs([entry], 0)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
async def test_events_cut_anywhere(size: int) -> None:
    body = 'data: {"a":"x\u2028y"}\r\n\n: ping\n\ndata:{"b":2}\n\ndata: [DONE]\n\ndata: {"c":3}\n'.encode()

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    response = httpx.Response(200, content=chunks())
    assert [event async for event in server_sent_json(response)] == [{"a": "x\u2028y"}, {"b": 2}]


async def test_events_that_a_proxy_compressed() -> None:
    body = gzip.compress(b'data: {"a":1}\n\ndata: [DONE]\n\n')
    response = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(body))
    assert [event async for event in server_sent_json(response)] == [{"a": 1}]


async def test_a_line_without_an_end_is_not_gathered_for_ever() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * (1 << 20)

    with pytest.raises(EngineFailed, match="without an end"):
        async for _ in server_sent_json(httpx.Response(200, content=chunks())):
            pass


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
