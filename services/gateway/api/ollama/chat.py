"""POST /api/chat"""

import time
from collections.abc import Iterable

from starlette.responses import Response

from libs.common.contracts.inference import ChatMessage, ToolCall, ToolFunction
from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.json_body import MOST_OBJECTS, Fields, nodes_of
from services.gateway.api.ollama.capabilities import check_model
from services.gateway.api.ollama.images import check_images
from services.gateway.api.ollama.lines import Lines, chat_message
from services.gateway.api.ollama.request import find_model, load, read_common, respond, unload
from services.gateway.api.ollama.tools import read_tools

MOST_CALLS = 10_000
MOST_CALLS_AT_ONCE = 1000


async def chat(call: Call, lines_of: type[Lines] = Lines) -> Response:
    started_ns = time.perf_counter_ns()
    body = Fields(call.body, "ChatRequest")
    common = read_common(body)
    messages = read_messages(body)
    images = [image for message in messages for image in message.images]
    await check_images(images)
    tools = read_tools(body)
    if not common.model:
        raise InvalidRequest("model is required")
    model = await find_model(call, common.model)
    lines = lines_of(common.model, chat_message, started_ns)
    if not messages and common.keep_alive_seconds == 0:
        return await unload(call, model, lines)
    check_model(model, common.model, "chat", thinking=common.thinking, tools=bool(tools), images=bool(images))
    if not messages:
        return await load(call, model, common, lines)
    task = common.task(model, kind="chat", messages=messages, tools=tools)
    return await respond(call, model, task, lines, stream=common.stream)


def read_messages(body: Fields) -> tuple[ChatMessage, ...]:
    for _node in nodes_of(body.raw("messages"), "messages"):
        pass  # all of it together is bounded, arguments of calls too: it is read on the event loop
    return bounded(_message(fields) for fields in body.objects("messages", "Message"))


def bounded(messages: Iterable[ChatMessage]) -> tuple[ChatMessage, ...]:
    """Counted over all of them, and so are their calls: they are read on the event loop, here and in the worker."""
    read: list[ChatMessage] = []
    calls = 0
    for message in messages:
        read.append(message)
        calls += len(message.tool_calls)
        if len(read) > MOST_OBJECTS:
            raise InvalidRequest(f"messages must not have more than {MOST_OBJECTS} parts")
        if calls > MOST_CALLS:
            raise InvalidRequest(f"messages must not have more than {MOST_CALLS} tool calls")
    return tuple(read)


def _message(fields: Fields) -> ChatMessage:
    return ChatMessage(
        role=fields.text("role").lower(),
        content=fields.text("content"),
        thinking=fields.text("thinking"),
        images=fields.texts("images"),
        tool_calls=tuple(
            _tool_call(call) for call in fields.objects("tool_calls", "ToolCall", most=MOST_CALLS_AT_ONCE)
        ),
        tool_name=fields.text("tool_name"),
        tool_call_id=fields.text("tool_call_id"),
    )


def _tool_call(fields: Fields) -> ToolCall:
    function = fields.object("function", "ToolCallFunction")
    return ToolCall(
        id=fields.text("id"),
        function=ToolFunction(
            name=function.text("name"),
            arguments=function.mapping("arguments"),
            index=function.integer("index") or 0,
        ),
    )
