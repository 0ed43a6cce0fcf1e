import pytest

from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.tools import read_tools


def read(*tools: object) -> list[object]:
    return list(read_tools(Fields({"tools": list(tools)}, "ChatRequest")))


def parameters(**given: object) -> dict[str, object]:
    (tool,) = read({"type": "function", "function": {"name": "f", "parameters": given}})
    found: dict[str, object] = tool["function"]["parameters"]  # type: ignore[index]
    return found


def test_a_tool_keeps_its_shape_and_the_order_of_its_properties() -> None:
    properties = {"z": {"type": "string"}, "a": {"description": "d", "type": "integer"}}
    function = {"parameters": {"properties": properties, "required": ["z"], "type": "object"}, "name": "f"}
    (tool,) = read({"function": {**function, "strict": True, "description": "does f"}, "TYPE": "function", "x": 1})
    assert tool == {
        "type": "function",
        "function": {
            "name": "f",
            "description": "does f",
            "parameters": {"type": "object", "required": ["z"], "properties": properties},
        },
    }
    assert list(parameters(properties=properties)["properties"]) == ["z", "a"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"type": "string", "minLength": 1, "pattern": "x", "format": "date"}, {"type": "string"}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"type": ["string"]}, {"type": "string"}),
        ({"enum": ["C", 1, None], "default": "C"}, {"enum": ["C", 1, None]}),
        ({"type": "array", "items": {"type": "string", "minLength": 1}},
         {"type": "array", "items": {"type": "string", "minLength": 1}}),
        ({"anyOf": [{"type": "string", "title": "t"}, {"type": "null"}]},
         {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "object", "properties": {"p": {"title": "t", "type": "string"}}, "required": ["p"]},
         {"type": "object", "properties": {"p": {"type": "string"}}, "required": ["p"]}),
        (None, {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_a_property_keeps_the_keywords_that_ollama_keeps(given: object, kept: object) -> None:
    assert parameters(type="object", properties={"x": given})["properties"] == {"x": kept}


def test_parameters_keep_definitions() -> None:
    given = {"type": "object", "$defs": {"d": {"minimum": 1}}, "items": {"x": 1}, "additionalProperties": False}
    assert parameters(**given) == {
        "type": "object",
        "$defs": {"d": {"minimum": 1}},
        "items": {"x": 1},
        "properties": {},
    }


def test_an_empty_tool_is_one() -> None:
    expected = {"type": "", "function": {"name": "", "parameters": {"type": "", "properties": {}}}}
    assert read({}) == [expected]
    assert read_tools(Fields({}, "ChatRequest")) == ()


def nested(levels: int) -> dict[str, object]:
    tool: dict[str, object] = {"type": "string"}
    for _ in range(levels):
        tool = {"properties": {"p": tool}}
    return tool


@pytest.mark.parametrize(
    "tool",
    [
        {"function": "f"},
        {"function": {"name": 1}},
        {"function": {"parameters": []}},
        {"function": {"parameters": {"properties": {"x": 1}}}},
        {"function": {"parameters": {"required": "x"}}},
        {"function": {"parameters": {"properties": {"x": {"type": 1}}}}},
        {"function": {"parameters": {"properties": {"x": {"type": ["a", 1]}}}}},
        {"function": {"parameters": nested(60)}},
    ],
)
def test_what_is_no_tool_is_refused(tool: object) -> None:
    with pytest.raises(InvalidRequest):
        read(tool)
