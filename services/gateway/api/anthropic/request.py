"""What a request for a message says, as a task."""

from dataclasses import dataclass
from typing import Any, Final

from libs.common.contracts.inference import InferenceTask, ModelRef, OutputFormat, Think
from libs.common.errors import InvalidRequest
from services.gateway.api.anthropic.blocks import read_messages
from services.gateway.api.anthropic.tools import read_tools
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.capabilities import check_model
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.output_format import read_format
from services.gateway.api.ollama.request import find_model
from services.gateway.api.openai.messages import have_images, with_images

_EFFORTS: Final[dict[str, Think]] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}
_NOT_HERE: Final = ("container", "mcp_servers")


@dataclass(frozen=True)
class Asked:
    name: str
    """Of the model, as the client wrote it."""

    model: ModelRef
    task: InferenceTask
    stops: tuple[str, ...]
    """The caller's own: the model may have others."""

    stream: bool
    shows_thinking: bool
    """If not, its block is there and empty."""


async def read_request(call: Call, *, to_be_answered: bool = True) -> Asked:
    """``to_be_answered``: within ``max_tokens``. Raises ``InvalidRequest`` and what ``Models.resolve`` raises."""
    body = Fields(call.body, "MessagesRequest")
    name = body.text("model")
    if not name:
        raise InvalidRequest("model is required", param="model")
    longest = _max_tokens(body) if to_be_answered else None
    _refuse_what_is_not_here(body)
    messages = read_messages(body, urls=call.ctx.settings.image_urls)
    images = await have_images(messages)
    tools, think, output = read_tools(body), _read_think(body), _read_format(body)
    stops, stream, shows_thinking = body.texts("stop_sequences"), body.flag("stream", False), _shows_thinking(body)
    model = await find_model(call, name)
    check_model(model, name, "chat", tools=bool(tools.offered), images=images)
    task = InferenceTask(
        kind="chat",
        messages=await with_images(call, messages),
        tools=tools.offered,
        tool_choice=tools.choice,
        parallel_tool_calls=tools.parallel,
        format=output,
        think=think if "thinking" in model.capabilities else None,
        truncate=False,
        options=resolve_options(model, _read_options(body, longest, stops)),
    )
    return Asked(name, model, task, stops, stream, shows_thinking)


def _max_tokens(body: Fields) -> int:
    longest = body.integer("max_tokens")
    if longest is None or longest <= 0:
        raise InvalidRequest("max_tokens is required and must be positive", param="max_tokens")
    return longest


def _refuse_what_is_not_here(body: Fields) -> None:
    """Hints about caches, tiers, places and users change no answer."""
    for name in _NOT_HERE:
        if body.raw(name):
            raise InvalidRequest(f"{name} is not supported here", param=name)


def _read_options(body: Fields, longest: int | None, stops: tuple[str, ...]) -> dict[str, Any]:
    """What is absent is left to the model."""
    return {
        "num_predict": longest,
        "temperature": _share(body, "temperature"),
        "top_p": _share(body, "top_p"),
        "top_k": body.integer("top_k"),
        "stop": list(stops) or None,
    }


def _share(body: Fields, name: str) -> float | None:
    value = body.raw(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequest(f"{name} must be a number from 0 to 1", param=name)
    return float(value)


def _read_think(body: Fields) -> Think:
    """Nobody who does not ask for thinking expects it: the first block of an answer is taken for its text.

    An effort alone is none: clients that switch thinking off send one.
    """
    kind = body.object("thinking", "ThinkingConfig").text("type")
    effort = body.object("output_config", "OutputConfig").text("effort")
    if kind not in ("", "enabled", "adaptive", "disabled"):
        raise InvalidRequest(
            f"thinking.type must be enabled, adaptive or disabled, not {kind[:50]!r}", param="thinking"
        )
    if effort and effort not in _EFFORTS:
        raise InvalidRequest(
            f"output_config.effort must be one of {', '.join(_EFFORTS)}, not {effort[:50]!r}", param="output_config"
        )
    if kind in ("", "disabled"):
        return False
    return _EFFORTS.get(effort, True)


def _shows_thinking(body: Fields) -> bool:
    display = body.object("thinking", "ThinkingConfig").text("display")
    if display not in ("", "summarized", "omitted"):
        raise InvalidRequest(f"thinking.display must be summarized or omitted, not {display[:50]!r}", param="thinking")
    return display != "omitted"


def _read_format(body: Fields) -> OutputFormat:
    """In its place, or in the one it had before."""
    given = body.object("output_config", "OutputConfig")
    name, within = ("format", given) if given.raw("format") is not None else ("output_format", body)
    if within.raw(name) is None:
        return None
    output = within.object(name, "JSONOutputFormat")
    if output.text("type") != "json_schema":
        raise InvalidRequest(f"{name}.type must be json_schema", param=name)
    if output.raw("schema") is None:
        raise InvalidRequest(f"{name}.schema is required", param=name)
    return read_format(output.mapping("schema"))
