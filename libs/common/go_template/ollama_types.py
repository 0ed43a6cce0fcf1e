"""Messages and tools as Ollama's templates see them: by Go's field names, printed as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.contracts.inference import ChatMessage, ToolCall
from libs.common.go_template.values import JsonList, JsonMap, Struct


def message(given: ChatMessage) -> Struct:
    wire = {"role": given.role, "content": given.content}
    fields = {
        "Role": given.role,
        "Content": given.content,
        "Thinking": given.thinking,
        "Images": list(given.images),
        "ToolCalls": [_tool_call(call) for call in given.tool_calls],
        "ToolName": given.tool_name,
        "ToolCallID": given.tool_call_id,
    }
    optional = {
        "thinking": given.thinking,
        "images": fields["Images"],
        "tool_calls": fields["ToolCalls"],
        "tool_name": given.tool_name,
        "tool_call_id": given.tool_call_id,
    }
    return Struct("api.Message", fields, wire | _without_empty(optional))


def _tool_call(given: ToolCall) -> Struct:
    function = given.function
    arguments = JsonMap(function.arguments)
    called = Struct(
        "api.ToolCallFunction",
        {"Index": function.index, "Name": function.name, "Arguments": arguments},
        {"index": function.index, "name": function.name, "arguments": arguments},
    )
    wire = _without_empty({"id": given.id}) | {"function": called}
    return Struct("api.ToolCall", {"ID": given.id, "Function": called}, wire)


def tools(given: Sequence[Mapping[str, Any]]) -> JsonList:
    return JsonList([_tool(tool) for tool in given])


def _tool(given: Mapping[str, Any]) -> Struct:
    declared = _mapping(given.get("function"))
    parameters = _parameters(_mapping(declared.get("parameters")))
    name, description = _text(declared.get("name")), _text(declared.get("description"))
    function = Struct(
        "api.ToolFunction",
        {"Name": name, "Description": description, "Parameters": parameters},
        {"name": name} | _without_empty({"description": description}) | {"parameters": parameters},
    )
    kind = _text(given.get("type")) or "function"
    return Struct("api.Tool", {"Type": kind, "Function": function}, {"type": kind, "function": function})


def _parameters(schema: Mapping[str, Any]) -> Struct:
    kind = _text(schema.get("type")) or "object"
    properties = _properties(schema)
    required, items, definitions = schema.get("required") or [], schema.get("items"), schema.get("$defs")
    return Struct(
        "api.ToolFunctionParameters",
        {"Type": kind, "Required": required, "Properties": properties, "Items": items, "Defs": definitions},
        {"type": kind}
        | _without_empty({"$defs": definitions, "items": items, "required": required})
        | {"properties": properties},
    )


def _properties(schema: Mapping[str, Any]) -> JsonMap:
    return JsonMap({name: _property(_mapping(given)) for name, given in _mapping(schema.get("properties")).items()})


def _property(schema: Mapping[str, Any]) -> Struct:
    choices = [_property(_mapping(choice)) for choice in schema.get("anyOf") or []]
    kinds, description = schema.get("type") or "", _text(schema.get("description"))
    fields = {
        "AnyOf": choices,
        "Type": kinds[0] if isinstance(kinds, list | tuple) and len(kinds) == 1 else kinds,
        "Items": schema.get("items"),
        "Description": description,
        "Enum": schema.get("enum") or [],
        "Properties": _properties(schema),
        "Required": schema.get("required") or [],
    }
    wire = {name[0].lower() + name[1:]: value for name, value in fields.items()}
    return Struct("api.ToolProperty", fields, _without_empty(wire))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _without_empty(wire: Mapping[str, Any]) -> dict[str, Any]:
    """Go's ``omitempty``."""
    return {name: value for name, value in wire.items() if value}
