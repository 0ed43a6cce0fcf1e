"""POST /api/embed, and its elder POST /api/embeddings"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.contracts.tokens import unpack_vector
from libs.common.errors import InvalidRequest, ModelNotFound
from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.durations import keep_alive_seconds
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.wire import JsonAnswer, encode, metrics

MOST_INPUTS = 10_000
MOST_NUMBERS = 8_000_000
"""In all vectors of an answer, which worker, log and gateway hold whole: 32 MB."""
_COUNTED = ("total_duration", "load_duration", "prompt_eval_count")


async def embed(call: Call) -> Response:
    started_ns = time.perf_counter_ns()
    body = Fields(call.body, "EmbedRequest")
    name, inputs, dimensions = body.text("model"), _inputs(body.raw("input")), body.integer("dimensions")
    if not name:
        raise ModelNotFound("model '' not found")
    if dimensions is not None and dimensions < 0:
        raise InvalidRequest("dimensions must not be negative")
    keep_alive = keep_alive_seconds(body.raw("keep_alive"))
    truncate, options = body.flag("truncate", True), body.mapping("options")
    model = await _find_model(call, name)
    check_size(model, inputs)
    task = _task(model, options, keep_alive, inputs, truncate=truncate, dimensions=dimensions or None)
    _, end = await whole_answer(call, model, task)
    if not inputs:
        return JsonAnswer({"model": name, "embeddings": []})
    counted = metrics(end.usage, started_ns)
    vectors = await asyncio.to_thread(_vectors, end.embeddings)
    numbers = encode({key: counted[key] for key in _COUNTED})
    return JsonAnswer(b'{"model":%b,"embeddings":%b,%b' % (encode(name), vectors, numbers[1:]))


async def embeddings(call: Call) -> Response:
    body = Fields(call.body, "EmbeddingRequest")
    name, prompt = body.text("model"), body.text("prompt")
    if not name:
        raise InvalidRequest("model is required")
    keep_alive, options = keep_alive_seconds(body.raw("keep_alive")), body.mapping("options")
    model = await _find_model(call, name)
    task = _task(model, options, keep_alive, (prompt,) if prompt else (), normalise=False)
    _, end = await whole_answer(call, model, task)
    return JsonAnswer({"embedding": unpack_vector(end.embeddings[0]) if prompt and end.embeddings else []})


def _vectors(packed: Sequence[bytes]) -> bytes:
    """As a JSON array, without a number object for each number of all of them at once."""
    return b"[" + b",".join([encode(unpack_vector(vector)) for vector in packed]) + b"]"


def _inputs(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidRequest("invalid input type")
    if len(value) > MOST_INPUTS:
        raise InvalidRequest(f"input must not have more than {MOST_INPUTS} items")
    return tuple(value)


def check_size(model: ModelRef, inputs: Sequence[str]) -> None:
    """As far as it is known how long the model's vectors are."""
    length = model.details.embedding_length
    if len(inputs) * length > MOST_NUMBERS:
        raise InvalidRequest(f"input must not have more than {MOST_NUMBERS // length} items for this model")


def _task(
    model: ModelRef,
    options: dict[str, Any],
    keep_alive: float | None,
    inputs: tuple[str, ...],
    *,
    truncate: bool = True,
    dimensions: int | None = None,
    normalise: bool = True,
) -> InferenceTask:
    """Without inputs the model is only loaded."""
    return InferenceTask(
        kind="embed" if inputs else "load",
        inputs=inputs,
        truncate=truncate,
        dimensions=dimensions,
        normalise=normalise,
        options=resolve_options(model, options),
        keep_alive_seconds=keep_alive,
    )


async def _find_model(call: Call, name: str) -> ModelRef:
    try:
        return await call.ctx.models.resolve(call.caller, name)
    except ModelNotFound:
        raise ModelNotFound(f'model "{name}" not found, try pulling it first') from None
