"""``messages`` of a chat, with all the forms that their content may have."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from libs.common.contracts.inference import ChatMessage, ToolCall, ToolFunction
from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.json_body import MOST_DATA, MOST_OBJECTS, Fields, decode, nodes_of
from services.gateway.api.ollama.chat import MOST_CALLS_AT_ONCE, bounded
from services.gateway.api.ollama.images import check_images
from services.gateway.image_fetch import fetch_images, is_url

ROLES: Final = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    "developer": "system",
    "function": "tool",
}

_IMAGE: Final = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,")


def read_messages(body: Fields, *, urls: bool) -> tuple[ChatMessage, ...]:
    """Images are base64 or, where ``urls`` are allowed, addresses. Raises ``InvalidRequest``."""
    given = body.objects("messages", "Message")
    if not given:
        raise InvalidRequest("[] is too short - 'messages'", param="messages")
    _bound_parts(given)
    names: dict[str, str] = {}
    return bounded(check_arguments(message for fields in given for message in _messages(fields, names, urls=urls)))


async def have_images(messages: Sequence[ChatMessage]) -> bool:
    """Raises ``InvalidRequest`` for what is neither base64 nor an address, and for too many."""
    images = [image for message in messages for image in message.images]
    await check_images([image for image in images if not is_url(image)])
    return bool(images)


async def with_images(call: Call, messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """With what is behind the addresses of their images."""
    urls = [image for message in messages for image in message.images if is_url(image)]
    if not urls:
        return tuple(messages)
    with call.ctx.transfers.one_more(call.ctx.settings.transfers_per_caller):
        fetched = await fetch_images(urls)
    return tuple(
        message.model_copy(update={"images": tuple(fetched.get(image, image) for image in message.images)})
        for message in messages
    )


def _bound_parts(messages: Sequence[Fields]) -> None:
    contents = [message.raw("content") for message in messages]
    if sum(len(content) for content in contents if isinstance(content, list)) > MOST_OBJECTS:
        raise InvalidRequest(f"messages must not have more than {MOST_OBJECTS} parts", param="messages")


def _messages(fields: Fields, names: dict[str, str], *, urls: bool) -> Iterator[ChatMessage]:
    """Several, where images stand between texts. ``names``: of the tools that were called, by the id of the call."""
    role = fields.text("role")
    if role not in ROLES:
        raise InvalidRequest(f"role must be one of {', '.join(ROLES)}, not {role[:50]!r}", param="messages")
    for name in ("function_call", "audio"):
        if fields.raw(name):
            raise InvalidRequest(f"'{name}' of a message is not supported here", param="messages")
    calls = _calls(fields)
    names.update((call.id, call.function.name) for call in calls)
    common: dict[str, Any] = {"role": ROLES[role]}
    if common["role"] == "tool":
        call_id = fields.text("tool_call_id")
        common |= {"tool_call_id": call_id, "tool_name": fields.text("name") or names.get(call_id, "")}
    *before, last = _contents(fields, empty_is_fine=bool(calls), urls=urls)
    for part in before:
        yield ChatMessage(**common, **part)
    thinking = fields.text("reasoning") or fields.text("reasoning_content")
    yield ChatMessage(**common, **last, tool_calls=calls, thinking=thinking)


def _contents(fields: Fields, *, empty_is_fine: bool, urls: bool) -> list[dict[str, Any]]:
    """Of one message or several: models see the images of a message before its text."""
    content = fields.raw("content")
    if content in (None, "", []):
        content = fields.text("refusal") or content
    if isinstance(content, str):
        return [{"content": content}]
    if isinstance(content, list) and content:
        return grouped([_part(part, urls=urls) for part in fields.objects("content", "ContentPart")])
    if empty_is_fine and content in (None, []):
        return [{}]
    raise InvalidRequest("invalid message content type: expected text or a list of parts", param="messages")


def grouped(parts: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """``parts``: (image, text), one of them empty."""
    groups: list[tuple[list[str], list[str]]] = [([], [])]
    for image, text in parts:
        if image and groups[-1][1]:
            groups.append(([], []))
        images, texts = groups[-1]
        if image:
            images.append(image)
        else:
            texts.append(text)
    return [{"images": tuple(images), "content": "\n".join(texts)} for images, texts in groups]


def _part(part: Fields, *, urls: bool) -> tuple[str, str]:
    """(image, text)"""
    match part.text("type"):
        case "text" | "refusal" as kind:
            return "", part.text(kind)
        case "image_url":
            given = part.raw("image_url")
            url = given if isinstance(given, str) else part.object("image_url", "Image").text("url")
            return read_image(url, urls=urls), ""
        case other:
            raise InvalidRequest(f"content of type {other[:50]!r} is not supported here", param="messages")


def read_image(url: str, *, urls: bool) -> str:
    """Its base64, or its address where ``urls`` are allowed. Raises ``InvalidRequest``."""
    if is_url(url):
        if not urls:
            raise InvalidRequest(
                "image URLs are not currently supported, please use base64 encoded data instead", param="messages"
            )
        return url
    match = _IMAGE.match(url)
    data = url[match.end() :] if match else ""
    if not data or is_url(data):
        raise InvalidRequest("invalid image input", param="messages")
    return data


def _calls(fields: Fields) -> tuple[ToolCall, ...]:
    return tuple(_call(call) for call in fields.objects("tool_calls", "ToolCall", most=MOST_CALLS_AT_ONCE))


def _call(fields: Fields) -> ToolCall:
    function = fields.object("function", "ToolCallFunction")
    arguments = read_arguments(function.text("arguments"))
    return ToolCall(id=fields.text("id"), function=ToolFunction(name=function.text("name"), arguments=arguments))


def read_arguments(text: str) -> dict[str, Any]:
    """Raises ``InvalidRequest``."""
    try:
        arguments = decode(text.encode())
    except (InvalidRequest, UnicodeEncodeError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest("invalid tool call arguments", param="messages")
    return arguments


def check_arguments(messages: Iterable[ChatMessage]) -> Iterator[ChatMessage]:
    """They come as texts, so that looking at the body tells nothing of what is in them: together they are bounded here.

    Raises ``InvalidRequest``.
    """
    left = MOST_DATA
    for message in messages:
        for call in message.tool_calls:
            left -= sum(1 for _ in nodes_of(call.function.arguments, "tool call arguments"))
            if left < 0:
                raise InvalidRequest(
                    f"tool call arguments must not have more than {MOST_DATA} values", param="messages"
                )
        yield message
