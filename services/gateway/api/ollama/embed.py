"""POST /api/embed, and its elder POST /api/embeddings"""

import time
from typing import Any

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.errors import InvalidRequest, ModelNotFound
from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.durations import keep_alive_seconds
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.wire import JsonAnswer, metrics

MOST_INPUTS = 10_000
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
    task = _task(model, options, keep_alive, inputs, truncate=truncate, dimensions=dimensions or None)
    _, end = await whole_answer(call, model, task)
    if not inputs:
        return JsonAnswer({"model": name, "embeddings": []})
    counted = metrics(end.usage, started_ns)
    return JsonAnswer({"model": name, "embeddings": end.embeddings, **{key: counted[key] for key in _COUNTED}})


async def embeddings(call: Call) -> Response:
    body = Fields(call.body, "EmbeddingRequest")
    name, prompt = body.text("model"), body.text("prompt")
    if not name:
        raise InvalidRequest("model is required")
    keep_alive, options = keep_alive_seconds(body.raw("keep_alive")), body.mapping("options")
    model = await _find_model(call, name)
    task = _task(model, options, keep_alive, (prompt,) if prompt else (), normalise=False)
    _, end = await whole_answer(call, model, task)
    return JsonAnswer({"embedding": end.embeddings[0] if prompt and end.embeddings else []})


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
        return await call.ctx.models.resolve(name)
    except ModelNotFound:
        raise ModelNotFound(f'model "{name}" not found, try pulling it first') from None
