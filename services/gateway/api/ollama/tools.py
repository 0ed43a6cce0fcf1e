"""``tools`` of a chat, with what Ollama keeps of them, in its order: templates show them to the model as they are."""

from typing import Any

from services.gateway.api.json_body import Fields, nodes_of


def read_tools(body: Fields) -> tuple[dict[str, Any], ...]:
    """In the shape of Ollama and OpenAI. Raises ``InvalidRequest``."""
    for _node in nodes_of(body.raw("tools"), "tools"):
        pass  # as deep as it goes, that is no deeper than we can follow
    return tuple(_tool(tool) for tool in body.objects("tools", "Tool"))


def _tool(tool: Fields) -> dict[str, Any]:
    function = tool.object("function", "ToolFunction")
    parameters = function.object("parameters", "ToolFunctionParameters")
    return {
        "type": tool.text("type"),
        **_given(items=tool.raw("items")),
        "function": {
            "name": function.text("name"),
            **_given(description=function.text("description")),
            "parameters": {
                "type": parameters.text("type"),
                **_given(**{"$defs": parameters.raw("$defs")}, items=parameters.raw("items")),
                **_given(required=list(parameters.texts("required"))),
                "properties": _properties(parameters),
            },
        },
    }


def _properties(of: Fields) -> dict[str, Any]:
    """Their order is kept: it is part of the prompt."""
    return {
        name: _property(Fields(value, "ToolProperty", "ChatRequest.tools.function.parameters.properties"))
        for name, value in of.mapping("properties").items()
    }


def _property(given: Fields) -> dict[str, Any]:
    """Other keywords of JSON Schema are left out, as Ollama does."""
    return _given(
        anyOf=[_property(each) for each in given.objects("anyof", "ToolProperty")],
        type=_type(given),
        items=given.raw("items"),
        description=given.text("description"),
        enum=given.items("enum", "[]interface {}"),
        properties=_properties(given),
        required=list(given.texts("required")),
    )


def _type(given: Fields) -> str | list[str]:
    """A name, or several."""
    if not isinstance(given.raw("type"), list):
        return given.text("type")
    types = list(given.texts("type"))
    return types[0] if len(types) == 1 else types


def _given(**fields: Any) -> dict[str, Any]:
    """Those that are there."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}
