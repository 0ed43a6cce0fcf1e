"""Server-sent events: how the dialects besides Ollama's own stream."""

from collections.abc import Sequence
from typing import Final

from libs.common.contracts.inference import InferenceTask, ModelRef
from services.gateway.api.answer import Rendering, StreamedAnswer, stream_answer
from services.gateway.api.door import Call

MEDIA_TYPE: Final = "text/event-stream"
KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment: clients pass over it."""


def event(data: bytes, name: bytes = b"") -> bytes:
    """``data``: without line breaks, as ``encode`` makes it."""
    return b"event: %b\ndata: %b\n\n" % (name, data) if name else b"data: %b\n\n" % data


async def stream_events(
    call: Call, model: ModelRef, tasks: Sequence[InferenceTask], rendering: Rendering
) -> StreamedAnswer:
    """``stream_answer`` that no cache on the way keeps or holds back."""
    answer = await stream_answer(call, model, tasks, rendering)
    answer.headers["Cache-Control"] = "no-cache"
    return answer
