"""What the llama.cpp server and OpenAI-compatible upstreams have in common on the wire."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import orjson

from libs.common.contracts.inference import ChatMessage, InferenceTask, ModelRef


def conversation(task: InferenceTask, model: ModelRef) -> list[dict[str, Any]]:
    """The messages to answer. The model's own system prompt goes first unless the task brings one."""
    if task.kind == "generate":
        system = model.system if task.system is None else task.system
        return [*_system(system), {"role": "user", "content": task.prompt}]
    messages = [_message(message) for message in task.messages]
    if messages and messages[0]["role"] == "system":
        return messages
    return [*_system(model.system), *messages]


def _system(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": text}] if text else []


def _message(message: ChatMessage) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
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
    return wire


async def server_sent_json(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON of each ``data:`` line, until ``[DONE]`` or the end. Comments are skipped.

    Splits bytes at newlines itself: httpx's ``aiter_lines`` also splits at U+2028, which JSON may contain.
    Raises ``orjson.JSONDecodeError``.
    """
    rest = b""
    async for chunk in response.aiter_raw():
        *lines, rest = (rest + chunk).split(b"\n")
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
