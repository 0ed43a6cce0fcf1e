"""``messages`` of a chat, with all the forms that their content may have."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from libs.common.contracts.inference import ChatMessage, ToolCall, ToolFunction
from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import Fields, decode, nodes_of
from services.gateway.api.ollama.chat import MOST_CALLS_AT_ONCE, bounded

_IMAGE: Final = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,")


def read_messages(body: Fields) -> tuple[ChatMessage, ...]:
    """Raises ``InvalidRequest``."""
    given = body.objects("messages", "Message")
    if not given:
        raise InvalidRequest("[] is too short - 'messages'")
    names: dict[str, str] = {}
    return bounded(message for fields in given for message in _messages(fields, names))


def _messages(fields: Fields, names: dict[str, str]) -> Iterator[ChatMessage]:
    """One for each part of its content. ``names``: of the tools that were called, by the id of the call."""
    calls = _calls(fields)
    names.update((call.id, call.function.name) for call in calls)
    call_id = fields.text("tool_call_id")
    common: dict[str, Any] = {
        "role": fields.text("role"),
        "tool_call_id": call_id,
        "tool_name": fields.text("name") or names.get(call_id, ""),
    }
    *before, last = [*_parts(fields, empty_is_fine=bool(calls))]
    for part in before:
        yield ChatMessage(**common, **part)
    yield ChatMessage(**common, **last, tool_calls=calls, thinking=fields.text("reasoning"))


def _parts(fields: Fields, *, empty_is_fine: bool) -> Iterator[dict[str, Any]]:
    content = fields.raw("content")
    if isinstance(content, str):
        yield {"content": content}
    elif isinstance(content, list) and content:
        for part in fields.objects("content", "ContentPart"):
            yield _part(part)
    elif empty_is_fine and not content:
        yield {}
    else:
        raise InvalidRequest("invalid message content type: expected text or a list of parts")


def _part(part: Fields) -> dict[str, Any]:
    match part.text("type"):
        case "text":
            return {"content": part.text("text")}
        case "image_url":
            url = part.raw("image_url")
            return {"images": (_image(url if isinstance(url, str) else part.object("image_url", "Image").text("url")),)}
        case other:
            raise InvalidRequest(f"content of type {other[:50]!r} is not supported here")


def _image(url: str) -> str:
    if url.startswith(("http://", "https://")):
        raise InvalidRequest("image URLs are not currently supported, please use base64 encoded data instead")
    if (match := _IMAGE.match(url)) is None:
        raise InvalidRequest("invalid image input")
    return url[match.end() :]


def _calls(fields: Fields) -> tuple[ToolCall, ...]:
    return tuple(_call(call) for call in fields.objects("tool_calls", "ToolCall", most=MOST_CALLS_AT_ONCE))


def _call(fields: Fields) -> ToolCall:
    function = fields.object("function", "ToolCallFunction")
    try:
        arguments = decode(function.text("arguments").encode())
    except (InvalidRequest, UnicodeEncodeError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest("invalid tool call arguments")
    for _node in nodes_of(arguments, "tool call arguments"):
        pass  # as deep as it goes, that is no deeper than we can follow
    return ToolCall(id=fields.text("id"), function=ToolFunction(name=function.text("name"), arguments=arguments))


def shown_calls(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As an answer has them: the arguments are text."""
    return [
        {
            "id": call.get("id", ""),
            "index": index,
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"].get("arguments") or {}, ensure_ascii=False),
            },
        }
        for index, call in enumerate(calls)
    ]
