"""What the model may call: ``tools``, ``tool_choice``, ``parallel_tool_calls``."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from libs.common.contracts.inference import ToolChoice
from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama import tools as ollama_tools
from services.gateway.api.ollama.output_format import read_format, without_large_bounds

Tools = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class ToolUse:
    offered: Tools
    choice: ToolChoice
    parallel: bool


def read_tool_use(body: Fields) -> ToolUse:
    """Raises ``InvalidRequest``."""
    offered, choice = _chosen(_declared(body), body)
    return ToolUse(offered, choice, body.flag("parallel_tool_calls", True))


def _declared(body: Fields) -> Tools:
    """Parameters are kept whole: keywords of JSON Schema that Ollama leaves out count for users of OpenAI."""
    read = ollama_tools.read_tools(body)  # which refuses what is none
    return tuple(_tool(tool, given) for tool, given in zip(read, body.objects("tools", "Tool"), strict=True))


def _tool(read: dict[str, Any], given: Fields) -> dict[str, Any]:
    if read["type"] != "function":
        raise InvalidRequest(f"tools must be of type 'function', not {read['type'][:50]!r}", param="tools")
    if not read["function"]["name"]:
        raise InvalidRequest("the function of a tool must have a name", param="tools")
    function = given.object("function", "ToolFunction")
    strict = {"strict": True} if function.flag("strict", False) else {}
    parameters = {"type": "object", "properties": {}, **_parameters(function)}
    return {**read, "function": {**read["function"], "parameters": parameters, **strict}}


def _parameters(function: Fields) -> dict[str, Any]:
    """A schema that can be kept to, as a format must be."""
    parameters: dict[str, Any] = without_large_bounds(function.mapping("parameters"))
    try:
        read_format(parameters)
    except InvalidRequest as error:
        raise InvalidRequest(f"the parameters of a tool: {error.message}", param="tools") from None
    return parameters


def _chosen(declared: Tools, body: Fields) -> tuple[Tools, ToolChoice]:
    """What is offered, and whether one of them must be called."""
    match body.raw("tool_choice"):
        case None | "auto":
            return declared, "auto"
        case "none":
            return (), "auto"
        case "required":
            return _some(declared), "required"
        case {"type": "function", "function": {"name": str(name)}}:
            return _named(declared, {name}), "required"
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(tools)}}:
            return _named(declared, {_name(tool) for tool in tools}), mode
        case _:
            raise _wrong("must be auto, none, required, a function, or allowed tools")


def _name(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case _:
            raise _wrong("allows tools of type 'function' only")


def _named(declared: Tools, names: Collection[str]) -> Tools:
    known = {tool["function"]["name"] for tool in declared}
    if missing := sorted(set(names) - known):
        raise _wrong(f"names {missing[0][:100]!r}, which is not among the tools")
    return _some(tuple(tool for tool in declared if tool["function"]["name"] in names))


def _some(offered: Tools) -> Tools:
    if not offered:
        raise _wrong("needs tools to choose from")
    return offered


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest(f"'tool_choice' {why}", param="tool_choice")
