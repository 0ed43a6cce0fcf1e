from typing import Any

import pytest

from libs.common.contracts.inference import InferenceTask
from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import DEEPEST_DATA, MOST_DATA, Fields
from services.gateway.api.ollama.output_format import LARGEST_COUNT, read_format


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def test_a_schema_as_deep_as_it_may_be_reaches_the_worker() -> None:
    task = InferenceTask(kind="chat", format=read_format(nested(DEEPEST_DATA)))
    assert InferenceTask.model_validate_json(task.model_dump_json()) == task


def test_a_deeper_one_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="invalid format: nested more than 100 levels deep"):
        read_format(nested(DEEPEST_DATA + 1))


def test_so_is_one_that_is_too_large_to_look_at() -> None:
    assert read_format({"enum": [0] * (MOST_DATA - 2)}) is not None
    with pytest.raises(InvalidRequest, match=f"invalid format: more than {MOST_DATA} values"):
        read_format({"enum": [[0, 0]] * (MOST_DATA // 3)})


def test_so_are_deep_arguments_of_a_tool_call() -> None:
    with pytest.raises(InvalidRequest, match="invalid arguments: nested more than 100 levels deep"):
        Fields({"arguments": nested(DEEPEST_DATA + 1)}, "ToolCallFunction").mapping("arguments")


@pytest.mark.parametrize("name", ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"])
def test_counts_that_would_take_all_memory_are_refused(name: str) -> None:
    assert read_format({"items": [{name: LARGEST_COUNT}]}) is not None
    with pytest.raises(InvalidRequest, match=f"invalid format: {name} must not be larger than {LARGEST_COUNT}"):
        read_format({"items": [{name: LARGEST_COUNT + 1}]})


def test_a_property_may_be_called_like_a_count() -> None:
    schema = {"properties": {"minItems": {"type": "integer"}}}
    assert read_format(schema) == schema


NODE = {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}
REFERENCE = {"$ref": "#/$defs/node"}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#/anyOf/0"}]},
        {"$defs": {"node": {**NODE, "required": ["child"]}}, **REFERENCE},
        {"$defs": {"node": {"type": "array", "items": REFERENCE, "minItems": 1}}, **REFERENCE},
        {"$defs": {"node": {"anyOf": [{"allOf": [REFERENCE]}, {"prefixItems": [REFERENCE]}]}}, **REFERENCE},
    ],
)
def test_a_schema_without_an_end_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="whose required part contains itself"):
        read_format(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"node": NODE}, **REFERENCE},
        {"$defs": {"node": {"type": "array", "items": REFERENCE}}, **REFERENCE},
        {"$defs": {"node": {"anyOf": [{"type": "null"}, {"allOf": [REFERENCE]}]}}, **REFERENCE},
        {"$ref": "#/$defs/missing"},
        {"anyOf": [{"$ref": "#/anyOf/1"}, {"$ref": "#/anyOf/" + "1" * 5000}]},
    ],
)
def test_recursion_with_a_way_out_is_fine(schema: dict[str, Any]) -> None:
    assert read_format(schema) == schema


def test_references_that_go_on_and_on_are_not_followed_to_the_end_of_the_stack() -> None:
    levels = 1000
    chain = {f"n{i}": {"anyOf": [{"allOf": [{"$ref": f"#/$defs/n{i + 1}"}]}]} for i in range(levels)}
    schema = {"$defs": {**chain, f"n{levels}": {}}, "$ref": "#/$defs/n0"}
    with pytest.raises(InvalidRequest, match="too many to follow"):
        read_format(schema)


def test_references_that_branch_without_end_are_not_followed_for_ever() -> None:
    tower = {f"n{i}": {"anyOf": [{"$ref": f"#/$defs/n{i + 1}"}] * 2} for i in range(30)}
    with pytest.raises(InvalidRequest, match=r"too many to follow|contains itself"):
        read_format({"$defs": {**tower, "n30": {"$ref": "#/$defs/n0"}}, "$ref": "#/$defs/n0"})
