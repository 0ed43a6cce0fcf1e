"""Schemas as Ollama's grammars understand them: an object has the properties it names, and no others."""

from typing import Any, Final

# One line: where white space is free, a small model may find nothing better than one more of it, for ever.
LAYOUT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_MAPPINGS: Final = ("properties", "$defs", "definitions")
_LISTS: Final = ("prefixItems", "anyOf", "oneOf")
_SINGLE: Final = ("items", "additionalProperties")

# Beside these an object may get properties from elsewhere.
_LEAVE_OPEN: Final = frozenset(
    {"additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref", "if"}
)


def grammar_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """What llama.cpp's grammar library is to follow.

    By the letter of JSON Schema a model may add whatever it likes to any object, and a small one does, without an end.
    Parts of an ``allOf`` would exclude each other's properties if they were closed, so such a schema stays as it is.
    """
    closed = schema if _has_all_of(schema) else _close(schema)
    return {**closed, "x-guidance": LAYOUT}


def arguments_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    """Of a tool's arguments. One that names no parameters has none, unless it says otherwise."""
    schema = {"properties": {}, **parameters, "type": "object"}
    if not schema["properties"] and not _LEAVE_OPEN & schema.keys():
        schema["additionalProperties"] = False
    return grammar_schema(schema)


def _close(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for name in _SINGLE:
        if name in schema:
            closed[name] = _close(schema[name])
    for name in _LISTS:
        if isinstance(schema.get(name), list):
            closed[name] = [_close(part) for part in schema[name]]
    for name in _MAPPINGS:
        if isinstance(schema.get(name), dict):
            closed[name] = {key: _close(part) for key, part in schema[name].items()}
    if schema.get("properties") and not _LEAVE_OPEN & schema.keys():
        closed["additionalProperties"] = False
    return closed


def _has_all_of(value: Any) -> bool:
    if isinstance(value, dict):
        return "allOf" in value or any(map(_has_all_of, value.values()))
    return isinstance(value, list) and any(map(_has_all_of, value))
