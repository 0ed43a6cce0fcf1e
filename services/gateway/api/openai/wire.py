"""What OpenAI's requests for text have in common: options, formats, choices, and what cannot be had here."""

import time
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask, ModelRef, OutputFormat, SamplingOptions, Think
from libs.common.contracts.tokens import Logprob
from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama import request
from services.gateway.api.ollama.lines import token_shown
from services.gateway.api.ollama.options import LARGEST_INT32, resolve_options
from services.gateway.api.ollama.output_format import read_format
from services.gateway.api.ollama.wire import encode

FINGERPRINT: Final = "fp_ollama"
"""What clients of Ollama know."""

MOST_METADATA: Final = 16
LONGEST_NAME: Final = 64
LONGEST_VALUE: Final = 512
MOST_BIASES: Final = 1024
LARGEST_BIAS: Final = 100

MOST_REPEATED: Final = 16 * 1024 * 1024
"""Bytes of all choices of a prompt, each of which has the whole of it."""

_HINTS: Final[dict[str, type]] = {
    **dict.fromkeys(("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"), str),
    **dict.fromkeys(("service_tier", "verbosity"), str),
    "prompt_cache_options": dict,
}
"""They may be there: nothing is promised to who sends them."""

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
            raise InvalidRequest(f"'{name}' is not supported here with this value", param=name)
    read_metadata(body)
    for name, kind in _HINTS.items():
        if not isinstance(body.raw(name), kind | None):
            raise InvalidRequest(f"'{name}' must be {'text' if kind is str else 'an object'}", param=name)


def read_metadata(body: Fields) -> dict[str, str]:
    metadata = body.texts_by_key("metadata")
    fits = all(len(name) <= LONGEST_NAME and len(value) <= LONGEST_VALUE for name, value in metadata.items())
    if len(metadata) > MOST_METADATA or not fits or any("\0" in text for pair in metadata.items() for text in pair):
        most = f"{MOST_METADATA} pairs, names of {LONGEST_NAME} and values of {LONGEST_VALUE} characters"
        raise InvalidRequest(f"metadata may have {most}", param="metadata")
    return metadata


def read_stream(body: Fields) -> tuple[bool, bool]:
    """(whether to stream, whether the stream is to tell its usage)"""
    stream = body.flag("stream", False)
    if not stream and body.raw("stream_options") is not None:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true", param="stream_options")
    return stream, body.object("stream_options", "StreamOptions").flag("include_usage", False)


def read_count(body: Fields, name: str, most: int) -> int:
    """How many choices; one if it does not say."""
    count = body.integer(name)
    if count is not None and not 1 <= count <= most:
        raise InvalidRequest(f"'{name}' must be between 1 and {most}", param=name)
    return count or 1


def read_longest(body: Fields, *names: str) -> int | None:
    """Tokens of the answer: the first of the fields that is there; -1 is without end."""
    for name in names:
        if (longest := body.integer(name)) is not None:
            if longest < 1 and longest != -1:
                raise InvalidRequest(f"'{name}' must be at least 1", param=name)
            return longest
    return None


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


def read_logit_bias(body: Fields) -> tuple[tuple[int, float], ...]:
    given = body.mapping("logit_bias")
    if len(given) > MOST_BIASES:
        raise InvalidRequest(f"'logit_bias' must not have more than {MOST_BIASES} entries", param="logit_bias")
    return tuple(_bias(token, bias) for token, bias in given.items())


def _bias(token: str, bias: Any) -> tuple[int, float]:
    is_id = token.isascii() and token.isdigit() and len(token) < len(str(LARGEST_INT32))
    if not is_id or type(bias) not in (int, float) or abs(bias) > LARGEST_BIAS:
        raise InvalidRequest(
            f"'logit_bias' must map token ids to numbers from -{LARGEST_BIAS} to {LARGEST_BIAS}", param="logit_bias"
        )
    return int(token), float(bias)


def sampling(model: ModelRef, options: Mapping[str, Any], bias: tuple[tuple[int, float], ...]) -> SamplingOptions:
    """Raises ``InvalidRequest`` for options of a wrong type."""
    return resolve_options(model, options).model_copy(update={"logit_bias": bias})


def choices(task: InferenceTask, n: int) -> list[InferenceTask]:
    """The same ``n`` times, each with the seed that follows that of the one before.

    Raises ``InvalidRequest`` where a few bytes of the body would become very many.
    """
    if n > 1 and n * len(task.model_dump_json(exclude_defaults=True)) > MOST_REPEATED:
        raise InvalidRequest(f"'n' is too large for a request of this size: {MOST_REPEATED} bytes in all", param="n")
    return [task.model_copy(update={"options": _seeded(task.options, number)}) for number in range(n)]


def _seeded(options: SamplingOptions, number: int) -> SamplingOptions:
    return options.model_copy(update={"seed": (options.seed + number) % (LARGEST_INT32 + 1)})


def read_response_format(body: Fields) -> OutputFormat:
    if body.raw("response_format") is None:
        return None
    given = body.object("response_format", "ResponseFormat")
    match given.text("type"):
        case "text":
            return None
        case "json_object":
            return "json"
        case "json_schema":
            return _schema(given.object("json_schema", "JsonSchema"))
        case other:
            raise InvalidRequest(
                f"response_format.type must be text, json_object or json_schema, not {other[:50]!r}",
                param="response_format",
            )


def _schema(given: Fields) -> OutputFormat:
    """Engines keep to every schema as if it were ``strict``. Users of Ollama send no name."""
    given.flag("strict", False)
    given.text("name")
    if not (schema := given.mapping("schema")):
        raise InvalidRequest("'response_format.json_schema.schema' is required", param="response_format")
    return read_format(schema)


def read_effort(body: Fields) -> Think:
    """None leaves it to the model."""
    effort = body.text("reasoning_effort") or body.object("reasoning", "Reasoning").text("effort")
    if effort and effort not in _EFFORTS:
        raise InvalidRequest(
            f"invalid reasoning value: {effort[:50]!r} (must be one of {', '.join(_EFFORTS)})", param="reasoning_effort"
        )
    return _EFFORTS.get(effort)


async def find_model(call: Call, name: str) -> ModelRef:
    """Raises ``InvalidRequest`` without a name, and what ``Models.resolve`` raises."""
    if not name:
        raise InvalidRequest("model is required", param="model")
    return await request.find_model(call, name)


def logprob(entry: Logprob) -> dict[str, Any]:
    """With its alternatives, though there be none."""
    return {**token_shown(entry), "top_logprobs": [token_shown(other) for other in entry.top]}


def created() -> int:
    return int(time.time())


def json_answer(value: Any) -> Response:
    return Response(encode(value), media_type="application/json")
