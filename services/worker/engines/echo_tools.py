"""The echo engine's tool calls: every tool offered, or the first, with an argument for each of its parameters."""

from typing import Any

from services.worker.engines.base import Job
from services.worker.engines.tool_calls import CallNumbering


def call_tools(job: Job) -> list[dict[str, Any]]:
    numbering = CallNumbering(job.request_id)
    tools = job.task.tools if job.task.parallel_tool_calls else job.task.tools[:1]
    return [numbering.call(tool["function"]["name"], _arguments(tool["function"])) for tool in tools]


def _arguments(function: dict[str, Any]) -> dict[str, Any]:
    properties = (function.get("parameters") or {}).get("properties") or {}
    return {name: _value(index, schema) for index, (name, schema) in enumerate(properties.items())}


def _value(index: int, schema: dict[str, Any]) -> object:
    """Parameter *i* gets *i* in its type, or the first of the values it may have."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    values: dict[str, object] = {"integer": index, "number": index + 0.5, "boolean": True, "array": [], "object": {}}
    return values.get(kind[0] if isinstance(kind, list) else str(kind), f"a{index}")
