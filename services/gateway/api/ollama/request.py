"""What generate and chat have in common: fields, checks, and what they do without a prompt."""

import json
import time
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from libs.common.contracts.gateway import ModelUnloadRequested
from libs.common.contracts.inference import InferenceTask, ModelRef, OutputFormat
from libs.common.errors import InvalidRequest, ModelNotFound, UnsupportedByModel
from services.gateway.api.answer import stream_answer, whole_answer
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.durations import keep_alive_seconds
from services.gateway.api.ollama.lines import Lines
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.output_format import read_format
from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.models import display_name

THINK_LEVELS = ("high", "medium", "low", "max")


@dataclass(frozen=True)
class Common:
    """Fields of both, parsed and checked as far as that goes without the model."""

    model: str
    stream: bool
    format: OutputFormat
    think: bool
    keep_alive_seconds: float | None
    options: dict[str, Any]
    truncate: bool
    shift: bool

    def task(self, model: ModelRef, **fields: Any) -> InferenceTask:
        return InferenceTask(
            format=self.format,
            options=resolve_options(model.parameters, self.options),
            keep_alive_seconds=self.keep_alive_seconds,
            truncate=self.truncate,
            shift=self.shift,
            **fields,
        )


def read_common(body: Fields) -> Common:
    _check_logprobs(body)
    return Common(
        model=body.text("model"),
        stream=body.flag("stream", True),
        format=read_format(body.raw("format")),
        think=_think(body.raw("think")),
        keep_alive_seconds=keep_alive_seconds(body.raw("keep_alive")),
        options=body.mapping("options"),
        truncate=body.flag("truncate", True),
        shift=body.flag("shift", True),
    )


def _check_logprobs(body: Fields) -> None:
    top_logprobs = body.integer("top_logprobs")
    if top_logprobs is not None and not 0 <= top_logprobs <= 20:
        raise InvalidRequest("top_logprobs must be between 0 and 20")
    if body.flag("logprobs", False):
        raise InvalidRequest("logprobs are not supported yet")


def _think(value: Any) -> bool:
    """Whether the caller asks for thinking. ``False`` and absent are the same until a model can think here."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if value in THINK_LEVELS:
        return True
    expected = '"high", "medium", "low", "max", true, or false'
    if isinstance(value, str):
        raise InvalidRequest(f"invalid think value: {json.dumps(value, ensure_ascii=False)} (must be {expected})")
    raise InvalidRequest(f"think must be a boolean or string ({expected})")


async def find_model(call: Call, name: str) -> ModelRef:
    """Raises ``ModelNotFound`` in generate's and chat's words, and ``InvalidModelName``."""
    try:
        if not name:
            raise ModelNotFound
        return await call.ctx.models.resolve(name)
    except ModelNotFound:
        raise ModelNotFound(f"model '{name}' not found") from None


def check_model(model: ModelRef, common: Common, verb: str, *, tools: bool, images: bool, suffix: bool) -> None:
    """Refuse what this model cannot do, and what we cannot do yet, rather than answer something else."""
    if "completion" not in model.capabilities:
        raise UnsupportedByModel(f'"{common.model}" does not support {verb}')
    if common.think and "thinking" not in model.capabilities:
        raise UnsupportedByModel(f'"{common.model}" does not support thinking')
    if images and "vision" not in model.capabilities:
        raise UnsupportedByModel("this model is missing data required for image input")
    wanted = {"tools": tools, "insert": suffix}
    for capability in (name for name, asked in wanted.items() if asked):
        if capability not in model.capabilities:
            raise UnsupportedByModel(f"{_qualified(model.name)} does not support {capability}")
    for feature, asked in {"thinking": common.think, "image input": images, **wanted}.items():
        if asked:
            raise UnsupportedByModel(f"{feature} is not supported yet")


def _qualified(name: str) -> str:
    """The name as Ollama's capability errors show it, with host and namespace."""
    shown = display_name(name)
    missing = {0: "registry.ollama.ai/library/", 1: "registry.ollama.ai/"}
    return missing.get(shown.count("/"), "") + shown


async def unload(call: Call, model: ModelRef, lines: Lines) -> Response:
    """No prompt and ``keep_alive`` 0. Answered at once; workers drop the model when it is idle."""
    await call.ctx.bus.publish(ModelUnloadRequested(name=model.name, runner=model.runner))
    return JsonAnswer(lines.without_text("unload"))


async def load(call: Call, model: ModelRef, common: Common, lines: Lines) -> Response:
    """No prompt: one plain object, even if a stream was asked for, once the model is in memory."""
    await whole_answer(call, model, common.task(model, kind="load"))
    call.ctx.cluster.expect(model.runner, time.monotonic())
    return JsonAnswer(lines.without_text("load"))


async def respond(call: Call, model: ModelRef, task: InferenceTask, lines: Lines, *, stream: bool) -> Response:
    if stream:
        return await stream_answer(call, model, task, lines)
    frame, end = await whole_answer(call, model, task)
    return JsonAnswer(lines.last(frame, end).rstrip(b"\n"))
