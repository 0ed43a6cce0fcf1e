"""``tools`` and ``tool_choice``, which say in other words what OpenAI's do."""

from typing import Any, Final

from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import Fields
from services.gateway.api.openai.tools import ToolUse, read_tool_use

_OF_THE_CALLER: Final = ("", "custom")


def read_tools(body: Fields) -> ToolUse:
    """Raises ``InvalidRequest``."""
    choice = body.object("tool_choice", "ToolChoice")
    in_openais_words = {
        "tools": [_tool(tool) for tool in body.objects("tools", "ToolParam")],
        "tool_choice": _choice(choice),
        "parallel_tool_calls": not choice.flag("disable_parallel_tool_use", False),
    }
    return read_tool_use(Fields(in_openais_words, "MessagesRequest"))


def _choice(choice: Fields) -> Any:
    match choice.text("type"):
        case "" | "auto":
            return "auto"
        case "none":
            return "none"
        case "any":
            return "required"
        case "tool":
            return {"type": "function", "function": {"name": choice.text("name")}}
        case other:
            raise InvalidRequest(
                f"tool_choice.type must be auto, any, tool or none, not {other[:50]!r}", param="tool_choice"
            )


def _tool(tool: Fields) -> dict[str, Any]:
    kind, schema = tool.text("type"), tool.raw("input_schema")
    if kind not in _OF_THE_CALLER:
        raise InvalidRequest(f"tools of type {kind[:50]!r} are not available here, only custom ones", param="tools")
    if schema is None:
        raise InvalidRequest("a tool must have an input_schema", param="tools")
    function = {"name": tool.text("name"), "description": tool.text("description"), "parameters": schema}
    return {"type": "function", "function": {**function, "strict": tool.flag("strict", False)}}
