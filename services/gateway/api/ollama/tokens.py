"""POST /api/tokenize and /api/detokenize: which Ollama does not have, in the shapes that were proposed there."""

import asyncio
import time
from typing import Any, Final

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask, Kind, ModelRef
from libs.common.contracts.tokens import StreamEnd
from libs.common.errors import InvalidRequest, UnsupportedByModel
from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.durations import keep_alive_seconds
from services.gateway.api.ollama.options import LARGEST_INT32, resolve_options
from services.gateway.api.ollama.request import find_model
from services.gateway.api.ollama.wire import JsonAnswer, metrics

MOST_CHARACTERS: Final = 1_000_000
MOST_TOKENS: Final = 250_000
TEXT_FIELDS: Final = ("content", "text", "prompt")
"""Names that are in use for it."""

_COUNTED: Final = ("total_duration", "load_duration")


async def tokenize(call: Call) -> Response:
    """Control tokens in the text are plain text, and nothing is put before it, unless ``add_special`` is true."""
    started_ns = time.perf_counter_ns()
    body = Fields(call.body, "TokenizeRequest")
    text, special = _text(body), body.flag("add_special", False)
    model, end = await _ask(call, body, "tokenize", prompt=text, raw=not special)
    return JsonAnswer({"model": model, "tokens": end.token_ids, **_durations(end, started_ns)})


async def detokenize(call: Call) -> Response:
    started_ns = time.perf_counter_ns()
    body = Fields(call.body, "DetokenizeRequest")
    tokens = await asyncio.to_thread(_tokens, body)
    model, end = await _ask(call, body, "detokenize", context=tokens)
    return JsonAnswer({"model": model, "content": end.rendered or "", **_durations(end, started_ns)})


async def _ask(call: Call, body: Fields, kind: Kind, **fields: Any) -> tuple[str, StreamEnd]:
    """The model's name as it was asked for, and what came of it."""
    name, options, keep_alive = body.text("model"), body.mapping("options"), keep_alive_seconds(body.raw("keep_alive"))
    model = await find_model(call, name)
    _check_model(model, name)
    task = InferenceTask(kind=kind, options=resolve_options(model, options), keep_alive_seconds=keep_alive, **fields)
    _, end = await whole_answer(call, model, task)
    return name, end


def _check_model(model: ModelRef, asked_as: str) -> None:
    if "image" in model.capabilities:
        raise UnsupportedByModel(f'"{asked_as}" has no tokens of text')


def _text(body: Fields) -> str:
    """Raises ``InvalidRequest``."""
    if body.text("media_type") not in ("", "text"):
        raise InvalidRequest("media_type must be text", param="media_type")
    given = [name for name in TEXT_FIELDS if body.raw(name) is not None]
    if len(given) != 1:
        raise InvalidRequest(f"the text is required, as one of {', '.join(TEXT_FIELDS)}")
    text = body.text(given[0])
    if len(text) > MOST_CHARACTERS:
        raise InvalidRequest(f"{given[0]} must not have more than {MOST_CHARACTERS} characters", param=given[0])
    return text


def _tokens(body: Fields) -> tuple[int, ...]:
    """Raises ``InvalidRequest``."""
    if body.raw("tokens") is None:
        raise InvalidRequest("tokens is required", param="tokens")
    if len(body.items("tokens", "[]int")) > MOST_TOKENS:
        raise InvalidRequest(f"tokens must not have more than {MOST_TOKENS} items", param="tokens")
    tokens = body.integers("tokens")
    if tokens and not 0 <= min(tokens) <= max(tokens) <= LARGEST_INT32:
        raise InvalidRequest(f"tokens must be numbers from 0 to {LARGEST_INT32}", param="tokens")
    return tokens


def _durations(end: StreamEnd, started_ns: int) -> dict[str, int]:
    counted = metrics(end.usage, started_ns)
    return {name: counted[name] for name in _COUNTED}
