"""What is asked of /v1/responses, checked as far as that goes without the model and without what is kept."""

from dataclasses import dataclass
from typing import Any, Final

from libs.common.contracts.inference import OutputFormat, Think
from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import Fields, nodes_of
from services.gateway.api.ollama.output_format import read_format
from services.gateway.api.ollama.request import MOST_TOP_LOGPROBS
from services.gateway.api.openai import wire
from services.gateway.api.openai.responses.items import Item, read_input
from services.gateway.api.openai.responses.tools import Tools, read_tools

HARMLESS: Final[dict[str, tuple[Any, ...]]] = {"conversation": (), "prompt": (), "context_management": ([],)}

LOGPROBS: Final = "message.output_text.logprobs"
ENCRYPTED: Final = "reasoning.encrypted_content"
INCLUDED: Final = {
    LOGPROBS,
    ENCRYPTED,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
}
"""Those about items that are never made here have nothing to add."""

ECHOED: Final = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "user",
)


@dataclass(frozen=True)
class Asked:
    model: str
    stream: bool
    background: bool
    store: bool | None
    """None: as the organization wants it."""

    previous: str
    """The id of the response to go on from; empty: none."""

    instructions: str
    input: list[Item]
    tools: Tools
    format: OutputFormat
    think: Think
    logprobs: bool
    top_logprobs: int
    encrypted: bool
    """Thoughts are told in the form in which clients that keep nothing send them back."""

    truncate: bool
    options: dict[str, Any]
    echo: dict[str, Any]
    """Fields that the reply repeats."""


def read(given: Any) -> Asked:
    """``given``: the body. Raises ``InvalidRequest``."""
    for _node in nodes_of(given, "body"):
        pass  # as deep as it goes, that is no deeper than we can follow and keep
    body = Fields(given, "ResponseRequest")
    wire.refuse_what_is_not_here(body, HARMLESS)
    body.integer("max_tool_calls")  # a hint, which is only to be a number
    include = _included(body)
    tools, text, top_logprobs = read_tools(body), body.object("text", "ResponseText"), _top_logprobs(body)
    options = wire.read_options(body, num_predict=wire.read_longest(body, "max_output_tokens"))
    asked = Asked(
        model=body.text("model"),
        stream=body.flag("stream", False),
        background=body.flag("background", False),
        store=None if body.raw("store") is None else body.flag("store", False),
        previous=body.text("previous_response_id"),
        instructions=body.text("instructions"),
        input=read_input(body.raw("input")),
        tools=tools,
        format=_format(text.object("format", "ResponseTextFormat")),
        think=wire.read_effort(body),
        logprobs=LOGPROBS in include or top_logprobs > 0,
        top_logprobs=top_logprobs,
        encrypted=ENCRYPTED in include,
        truncate=_truncate(body),
        options=options,
        echo=_echo(body, tools, options),
    )
    if not asked.input and not asked.previous:
        raise InvalidRequest("input must not be empty", param="input")
    if asked.background and asked.store is False:
        raise InvalidRequest("a response in the background has to be stored: leave 'store' out", param="store")
    return asked


def _included(body: Fields) -> set[str]:
    include = set(body.texts("include"))
    if unknown := include - INCLUDED:
        raise InvalidRequest(f"include: {min(unknown)[:50]!r} is not supported here", param="include")
    return include


def _top_logprobs(body: Fields) -> int:
    count = body.integer("top_logprobs") or 0
    if not 0 <= count <= MOST_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MOST_TOP_LOGPROBS}", param="top_logprobs")
    return count


def _format(given: Fields) -> OutputFormat:
    match given.text("type"):
        case "" | "text":
            return None
        case "json_object":
            return "json"
        case "json_schema":
            if not (schema := given.mapping("schema")):
                raise InvalidRequest("'text.format.schema' is required", param="text.format.schema")
            return read_format(schema)
    raise InvalidRequest("text.format must be text, json_object or json_schema", param="text.format")


def _truncate(body: Fields) -> bool:
    """Where nothing is said, nothing is cut off, as with OpenAI: agents make room when they are told to."""
    truncation = body.text("truncation") or "disabled"
    if truncation not in ("auto", "disabled"):
        raise InvalidRequest("truncation must be auto or disabled", param="truncation")
    return truncation == "auto"


def _echo(body: Fields, tools: Tools, options: dict[str, Any]) -> dict[str, Any]:
    reasoning, text = body.object("reasoning", "Reasoning"), body.object("text", "ResponseText")
    return {
        **{name: body.raw(name) for name in ECHOED},
        "metadata": wire.read_metadata(body),
        "parallel_tool_calls": tools.use.parallel,
        "reasoning": {"effort": reasoning.text("effort") or None, "summary": reasoning.text("summary") or None},
        "temperature": options["temperature"],
        "text": {"format": text.raw("format") or {"type": "text"}, "verbosity": text.text("verbosity") or "medium"},
        "tool_choice": body.raw("tool_choice") or "auto",
        "tools": tools.shown,
        "top_logprobs": body.integer("top_logprobs") or 0,
        "top_p": options["top_p"],
        "truncation": body.raw("truncation") or "disabled",
    }
