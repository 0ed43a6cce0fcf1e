"""What the llama.cpp server and OpenAI-compatible upstreams have in common on the wire."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Final

import httpx
import orjson

from libs.common.contracts.inference import ChatMessage, InferenceTask
from libs.common.contracts.tokens import Logprob, TopLogprob
from libs.common.errors import EngineFailed
from services.worker.engines.images import data_uri

LONGEST_LINE_BYTES: Final = 16 << 20
"""Of a streamed answer. The longest we know are whole tool calls."""


def wire_messages(messages: Sequence[ChatMessage], *, reasoning: bool) -> list[dict[str, Any]]:
    """``reasoning``: with what the assistant thought, which OpenAI's own protocol does not know.

    Raises ``InvalidRequest`` for an image that is none. With images run it in a thread.
    """
    return [_message(message, reasoning) for message in messages]


def _message(message: ChatMessage, reasoning: bool) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        images = [{"type": "image_url", "image_url": {"url": data_uri(image)}} for image in message.images]
        wire["content"] = [*images, {"type": "text", "text": message.content}]
    if message.thinking and reasoning:
        wire["reasoning_content"] = message.thinking
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": orjson.dumps(call.function.arguments).decode()},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_name:
        wire["name"] = message.tool_name
    return wire


def tool_rules(task: InferenceTask) -> dict[str, Any]:
    """What goes beside the tools that are offered. Nothing if it is what every server does by itself."""
    must = {"tool_choice": "required"} if task.tool_choice == "required" else {}
    return must if task.parallel_tool_calls else {**must, "parallel_tool_calls": False}


def read_logprobs(entries: Iterable[dict[str, Any]], top: int) -> tuple[Logprob, ...]:
    """Of OpenAI's shape. ``top``: how many alternatives to keep. Raises ``KeyError``, ``TypeError``, ``ValueError``."""
    return tuple(
        Logprob(*_read(entry), [TopLogprob(*_read(other)) for other in _likeliest(entry, top)]) for entry in entries
    )


def _read(entry: dict[str, Any]) -> tuple[str, float, bytes]:
    return str(entry["token"]), float(entry["logprob"]), _data(entry)


def _likeliest(entry: dict[str, Any], top: int) -> list[dict[str, Any]]:
    others = entry.get("top_logprobs") or []
    return sorted(others, key=lambda other: -float(other["logprob"]))[:top]


def _data(entry: dict[str, Any]) -> bytes:
    data = entry.get("bytes")
    return str(entry["token"]).encode() if data is None else bytes(data)


async def server_sent_json(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON of each ``data:`` line, until ``[DONE]`` or the end. Comments are skipped.

    Splits bytes at newlines itself: httpx's ``aiter_lines`` also splits at U+2028, which JSON may contain.
    Raises ``orjson.JSONDecodeError``, and ``EngineFailed`` for a line without an end.
    """
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE_BYTES:
            raise EngineFailed("the engine sent a line without an end")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield orjson.loads(data)


def error_text(body: bytes) -> str:
    """The message in an error body of any of the usual shapes, at most 500 characters."""
    try:
        error = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")[:500]
    for key in ("error", "message"):
        if isinstance(error, dict) and key in error:
            error = error[key]
    return str(error)[:500]
