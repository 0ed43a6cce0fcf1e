"""What may be said where a call must come: by the library that the server asks, too."""

from typing import Any

import pytest
from llguidance import LLMatcher

from libs.common.errors import InvalidRequest
from services.worker.engines.grammar import call_grammar
from services.worker.engines.json_schema import LAYOUT, arguments_schema

NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
ANY = {"type": "object", "additionalProperties": True}
ZONE = {"$defs": {"Zone": {"enum": ["UTC"]}}, "properties": {"zone": {"$ref": "#/$defs/Zone"}}, "required": ["zone"]}


def a_tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, NOTHING),
        ({"type": "", "properties": {}}, NOTHING),
        (ANY, {**ANY, "properties": {}}),
        ({"$ref": "#/$defs/a"}, {"type": "object", "properties": {}, "$ref": "#/$defs/a"}),
    ],
)
def test_arguments_nobody_named(parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    assert arguments_schema(parameters) == {**expected, "x-guidance": LAYOUT}


async def test_each_tool_has_its_parameters() -> None:
    grammar = await call_grammar([a_tool("clock", ZONE), a_tool('a "quoted"\nname', {"properties": {}})])
    head, _, rules = grammar.partition("\n")
    assert head == "%llguidance {}"
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(rules)) == ""
    assert rules.count("%json") == 2
    assert rules.startswith('start: "\\n"? (call_0 | call_1)\n')


@pytest.mark.parametrize("properties", [3, {"a": {"type": "string", "pattern": "((("}}])
async def test_parameters_that_nothing_can_follow(properties: Any) -> None:
    with pytest.raises(InvalidRequest, match="invalid tools"):
        await call_grammar([a_tool("f", {"properties": properties})])
