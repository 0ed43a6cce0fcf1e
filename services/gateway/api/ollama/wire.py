"""Ollama's shapes and words. Lines are put together from bytes: this runs for every chunk of every stream."""

import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from starlette.responses import Response

from libs.common.contracts.inference import ModelDetails
from libs.common.contracts.tokens import StreamEnd, Usage
from libs.common.errors import ServiceError
from services.gateway.api.door import Dialect

# Line breaks to clients that split a stream as str.splitlines does, which ollama-python's HTTP client is one of.
_LINE_BREAKS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))

FOREVER_SECONDS = 292 * 365.25 * 86400
"""Go's longest duration: how "for ever" looks in ``expires_at``."""


def encode(value: Any) -> bytes:
    """JSON on one line, whatever is in it."""
    data = orjson.dumps(value)
    if not data.isascii():
        for raw, escaped in _LINE_BREAKS:
            data = data.replace(raw, escaped)
    return data


class JsonAnswer(Response):
    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else encode(content)


def render_error(error: ServiceError, _request_id: str = "") -> Response:
    return JsonAnswer({"error": error.message}, error.status)


OLLAMA: Final = Dialect(render_error)


class _Clock:
    """UTC as Go writes it; the part down to the second is written once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def now(self) -> bytes:
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode()
            self._second = second
        return b"%b%09dZ" % (self._prefix, nanoseconds)


now = _Clock().now


def local_time(timestamp: float) -> str:
    """RFC 3339 in the server's own zone."""
    return datetime.fromtimestamp(timestamp, UTC).astimezone().isoformat(timespec="microseconds")


def details_of(details: ModelDetails) -> dict[str, Any]:
    """Lengths are left out where they are not known."""
    return {
        "parent_model": details.parent_model,
        "format": details.format,
        "family": details.family,
        "families": list(details.families) or None,
        "parameter_size": details.parameter_size,
        "quantization_level": details.quantization_level,
        **({"context_length": details.context_length} if details.context_length else {}),
        **({"embedding_length": details.embedding_length} if details.embedding_length else {}),
    }


def metrics(usage: Usage, started_ns: int) -> dict[str, int]:
    """Durations in nanoseconds, never zero: Ollama leaves zeros out, and clients divide by them."""
    return {
        "total_duration": max(1, time.perf_counter_ns() - started_ns),
        "load_duration": max(1, usage.load_ns),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": max(1, usage.prompt_ns),
        "eval_count": usage.completion_tokens,
        "eval_duration": max(1, usage.completion_ns),
    }


def final_fields(end: StreamEnd, started_ns: int) -> dict[str, Any]:
    return {"done": True, "done_reason": end.done_reason, **metrics(end.usage, started_ns)}
