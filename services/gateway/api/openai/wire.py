"""What OpenAI's requests for text have in common: options, formats, and what cannot be had here."""

import time
from collections.abc import Mapping
from typing import Any, Final

from libs.common.contracts.inference import ModelRef, OutputFormat, Think
from libs.common.contracts.tokens import StreamEnd
from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama import request
from services.gateway.api.ollama.output_format import read_format

FINGERPRINT: Final = "fp_ollama"
"""What clients of Ollama know."""

_EFFORTS: Final[dict[str, Think]] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}


def refuse_what_is_not_here(body: Fields, harmless: Mapping[str, tuple[Any, ...]]) -> None:
    """``harmless``: field to the values with which it changes nothing. Raises ``InvalidRequest`` for all others."""
    for name, values in harmless.items():
        given = body.raw(name)
        if given is not None and not any(type(given) is type(value) and given == value for value in values):
            raise InvalidRequest(f"'{name}' is not supported here with this value")


def read_options(body: Fields, *, num_predict: int | None) -> dict[str, Any]:
    """Ollama's options of OpenAI's fields. Those that are absent are 1, whatever the model's own are."""
    stop = body.raw("stop")
    options = {
        "temperature": 1.0 if (temperature := body.raw("temperature")) is None else temperature,
        "top_p": 1.0 if (top_p := body.raw("top_p")) is None else top_p,
        "num_predict": num_predict,
        "stop": [stop] if isinstance(stop, str) else stop,
        **{name: body.raw(name) for name in ("seed", "frequency_penalty", "presence_penalty")},
    }
    return {name: value for name, value in options.items() if value is not None}


def read_response_format(body: Fields) -> OutputFormat:
    given = body.object("response_format", "ResponseFormat")
    match given.text("type"):
        case "" | "text":
            return None
        case "json_object":
            return "json"
        case "json_schema":
            return read_format(given.object("json_schema", "JsonSchema").mapping("schema"))
        case other:
            raise InvalidRequest(f"response_format must be text, json_object or json_schema, not {other[:50]!r}")


def read_effort(body: Fields) -> Think:
    """None leaves it to the model."""
    effort = body.text("reasoning_effort") or body.object("reasoning", "Reasoning").text("effort")
    if effort and effort not in _EFFORTS:
        raise InvalidRequest(f"invalid reasoning value: {effort[:50]!r} (must be one of {', '.join(_EFFORTS)})")
    return _EFFORTS.get(effort)


async def find_model(call: Call, name: str) -> ModelRef:
    """Raises ``InvalidRequest`` without a name, and what ``Models.resolve`` raises."""
    if not name:
        raise InvalidRequest("model is required")
    return await request.find_model(call, name)


def created() -> int:
    return int(time.time())


def usage(end: StreamEnd) -> dict[str, int]:
    asked, answered = end.usage.prompt_tokens, end.usage.completion_tokens
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def finish_reason(end: StreamEnd, *, calls: bool = False) -> str:
    return "tool_calls" if calls else end.done_reason
