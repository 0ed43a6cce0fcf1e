"""What generate and chat have in common: fields, and what they do without a prompt."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from libs.common.contracts.gateway import ModelUnloadRequested
from libs.common.contracts.inference import InferenceTask, ModelRef, OutputFormat, Think
from libs.common.errors import InvalidRequest, ModelNotFound
from services.gateway.api.answer import stream_answer, whole_answer
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.durations import keep_alive_seconds
from services.gateway.api.ollama.lines import Lines
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.output_format import read_format
from services.gateway.api.ollama.wire import JsonAnswer

THINK_LEVELS = ("high", "medium", "low", "max")
MOST_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class Common:
    """Fields of both, parsed and checked as far as that goes without the model."""

    model: str
    stream: bool
    format: OutputFormat
    think: Think
    keep_alive_seconds: float | None
    options: dict[str, Any]
    truncate: bool
    shift: bool
    logprobs: bool
    top_logprobs: int
    render_only: bool

    @property
    def thinking(self) -> bool:
        """Whether thinking is asked for, not just left on."""
        return bool(self.think)

    def task(self, model: ModelRef, **fields: Any) -> InferenceTask:
        return InferenceTask(
            format=self.format,
            think=self.think,
            options=resolve_options(model, self.options),
            keep_alive_seconds=self.keep_alive_seconds,
            truncate=self.truncate,
            shift=self.shift,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
            debug_render_only=self.render_only,
            **fields,
        )


def read_common(body: Fields) -> Common:
    logprobs = body.flag("logprobs", False)
    top_logprobs = body.integer("top_logprobs") or 0
    if not 0 <= top_logprobs <= MOST_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MOST_TOP_LOGPROBS}")
    return Common(
        model=body.text("model"),
        stream=body.flag("stream", True),
        format=read_format(body.raw("format")),
        think=_think(body.raw("think")),
        keep_alive_seconds=keep_alive_seconds(body.raw("keep_alive")),
        options=body.mapping("options"),
        truncate=body.flag("truncate", True),
        shift=body.flag("shift", True),
        logprobs=logprobs,
        top_logprobs=top_logprobs if logprobs else 0,
        render_only=body.flag("_debug_render_only", False),
    )


def _think(value: Any) -> Think:
    """None leaves it to the model."""
    if value is None or isinstance(value, bool):
        return value
    if value in THINK_LEVELS:
        level: Think = value
        return level
    expected = '"high", "medium", "low", "max", true, or false'
    if isinstance(value, str):
        raise InvalidRequest(f"invalid think value: {json.dumps(value, ensure_ascii=False)} (must be {expected})")
    raise InvalidRequest(f"think must be a boolean or string ({expected})")


async def find_model(call: Call, name: str) -> ModelRef:
    """Raises ``ModelNotFound`` in generate's and chat's words, and what ``Models.resolve`` raises."""
    try:
        if not name:
            raise ModelNotFound
        return await call.ctx.models.resolve(call.caller, name)
    except ModelNotFound:
        raise ModelNotFound(f"model '{name}' not found") from None


async def unload(call: Call, model: ModelRef, lines: Lines) -> Response:
    """No prompt and ``keep_alive`` 0. Answered when every worker knows; one that is busy drops it when it is idle."""
    bus = call.ctx.bus
    await call.ctx.cluster.poll(
        lambda mark: bus.publish(ModelUnloadRequested(name=model.name, runner=model.runner, mark=mark))
    )
    return JsonAnswer(lines.without_text("unload"))


async def load(call: Call, model: ModelRef, common: Common, lines: Lines) -> Response:
    """No prompt: one plain object, even if a stream was asked for, once the model is in memory."""
    await whole_answer(call, model, common.task(model, kind="load"))
    return JsonAnswer(lines.without_text("load"))


async def respond(call: Call, model: ModelRef, task: InferenceTask, lines: Lines, *, stream: bool) -> Response:
    if task.debug_render_only:
        _, end = await whole_answer(call, model, task)
        return JsonAnswer(lines.rendered(end))
    if stream:
        return await stream_answer(call, model, [task], lines)
    return JsonAnswer(lines.whole(*await whole_answer(call, model, task)))
