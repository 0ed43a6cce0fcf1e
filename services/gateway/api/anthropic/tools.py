"""``tools`` and ``tool_choice``."""

from typing import Any, Final

from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama import tools

_OF_THE_CALLER: Final = ("", "custom")


def read_tools(body: Fields) -> dict[str, Any]:
    """What a task says of tools. Raises ``InvalidRequest``."""
    choice, offered = body.object("tool_choice", "ToolChoice"), _offered(body)
    one_at_a_time = choice.flag("disable_parallel_tool_use", False)
    match choice.text("type"):
        case "none":
            return {}
        case "" | "auto":
            return {"tools": offered, "parallel_tool_calls": not one_at_a_time}
        case "any":
            wanted = offered
        case "tool":
            name = choice.text("name")
            wanted = tuple(tool for tool in offered if tool["function"]["name"] == name)
        case other:
            raise InvalidRequest(
                f"tool_choice.type must be auto, any, tool or none, not {other[:50]!r}", param="tool_choice"
            )
    if not wanted:
        raise InvalidRequest("tool_choice names no tool of the request", param="tool_choice")
    return {"tools": wanted, "tool_choice": "required", "parallel_tool_calls": not one_at_a_time}


def _offered(body: Fields) -> tuple[dict[str, Any], ...]:
    given = [_as_function(tool) for tool in body.objects("tools", "ToolParam")]
    return tools.read_tools(Fields({"tools": given}, "MessagesRequest"))


def _as_function(tool: Fields) -> dict[str, Any]:
    """In the shape of Ollama and OpenAI."""
    kind, name = tool.text("type"), tool.text("name")
    if kind not in _OF_THE_CALLER:
        raise InvalidRequest(f"tools of type {kind[:50]!r} are not available here, only custom ones", param="tools")
    if not name or tool.raw("input_schema") is None:
        raise InvalidRequest("a tool needs a name and an input_schema", param="tools")
    description, schema = tool.text("description"), tool.mapping("input_schema")
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}
