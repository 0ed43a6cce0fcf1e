"""POST /api/chat"""

import time

from starlette.responses import Response

from libs.common.contracts.inference import ChatMessage, ToolCall, ToolFunction
from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.lines import Lines, chat_message
from services.gateway.api.ollama.request import check_model, find_model, load, read_common, respond, unload


async def chat(call: Call) -> Response:
    started_ns = time.perf_counter_ns()
    body = Fields(call.body, "ChatRequest")
    common = read_common(body)
    messages = tuple(_message(fields) for fields in body.objects("messages", "Message"))
    tools = body.objects("tools", "Tool")
    if not common.model:
        raise InvalidRequest("model is required")
    model = await find_model(call, common.model)
    lines = Lines(common.model, chat_message, started_ns)
    if not messages and common.keep_alive_seconds == 0:
        return await unload(call, model, lines)
    images = any(message.images for message in messages)
    check_model(model, common, "chat", tools=bool(tools), images=images, suffix=False)
    if not messages:
        return await load(call, model, common, lines)
    task = common.task(model, kind="chat", messages=messages)
    return await respond(call, model, task, lines, stream=common.stream)


def _message(fields: Fields) -> ChatMessage:
    return ChatMessage(
        role=fields.text("role").lower(),
        content=fields.text("content"),
        thinking=fields.text("thinking"),
        images=fields.texts("images"),
        tool_calls=tuple(_tool_call(call) for call in fields.objects("tool_calls", "ToolCall")),
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
