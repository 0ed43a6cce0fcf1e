from typing import Any

import pytest
from llguidance import LLMatcher

from services.worker.engines.json_schema import LAYOUT, grammar_schema

NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
CLOSED = {**NAME, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (NAME, CLOSED),
        ({"type": "object"}, {"type": "object"}),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}}),
        ({**NAME, "additionalProperties": True}, {**NAME, "additionalProperties": True}),
        ({**NAME, "additionalProperties": NAME}, {**NAME, "additionalProperties": CLOSED}),
        ({**NAME, "patternProperties": {"x": {}}}, {**NAME, "patternProperties": {"x": {}}}),
        ({"type": "array", "items": NAME}, {"type": "array", "items": CLOSED}),
        ({"type": "array", "prefixItems": [NAME, {}]}, {"type": "array", "prefixItems": [CLOSED, {}]}),
        ({"anyOf": [NAME, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"$ref": "#/$defs/a", "$defs": {"a": NAME}}, {"$ref": "#/$defs/a", "$defs": {"a": CLOSED}}),
        ({"properties": {"properties": NAME}}, {"properties": {"properties": CLOSED}, "additionalProperties": False}),
        ({"enum": [{"properties": {"a": 1}}]}, {"enum": [{"properties": {"a": 1}}]}),
        ({"allOf": [NAME, {"properties": {"age": {}}}]}, {"allOf": [NAME, {"properties": {"age": {}}}]}),
    ],
)
def test_objects_have_the_properties_they_name(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    before = repr(schema)
    result = grammar_schema(schema)
    assert result == {**expected, "x-guidance": LAYOUT}
    assert repr(schema) == before
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(result)) == ""
