"""``format``: none, "json", or a JSON schema small enough to be compiled."""

import json
from typing import Any, Final

from libs.common.contracts.inference import OutputFormat
from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import nodes_of
from services.gateway.api.ollama.endless import SchemaTooComplex, is_endless
from services.gateway.api.ollama.wire import encode

LARGEST_COUNT: Final = 100_000
"""Grammars are built out of every repetition: a thousand million items would take all memory of the machine."""

_UPPER: Final = ("maxItems", "maxLength", "maxProperties")
_COUNTS: Final = (*_UPPER, "minItems", "minLength", "minProperties")


def read_format(value: Any) -> OutputFormat:
    """Raises ``InvalidRequest``."""
    if value is None or value == "":
        return None
    if value == "json":
        return "json"
    if isinstance(value, dict):
        for node in nodes_of(value, "format"):
            _check_counts(node)
        _check_end(value)
        return value
    # Ollama says 500 here; it is the caller's mistake, so 400 with the same words.
    quoted = json.dumps(encode(value).decode(), ensure_ascii=False)
    raise InvalidRequest(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


def _check_end(schema: dict[str, Any]) -> None:
    try:
        endless = is_endless(schema)
    except SchemaTooComplex:
        raise InvalidRequest("invalid format: the references of the schema are too many to follow") from None
    if endless:
        raise InvalidRequest("invalid format: no value can match a schema whose required part contains itself")


def without_large_bounds(schema: Any) -> Any:
    """Upper bounds above ``LARGEST_COUNT`` are as good as none, where nobody can be told to leave them out."""
    if isinstance(schema, list):
        return [without_large_bounds(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: without_large_bounds(value)
        for name, value in schema.items()
        if not (name in _UPPER and isinstance(value, int | float) and value > LARGEST_COUNT)
    }


def _check_counts(node: Any) -> None:
    for name in _COUNTS if isinstance(node, dict) else ():
        count = node.get(name)
        if isinstance(count, int | float) and count > LARGEST_COUNT:
            raise InvalidRequest(f"invalid format: {name} must not be larger than {LARGEST_COUNT}")
