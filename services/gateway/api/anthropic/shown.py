"""A message as it is answered: its blocks, why it ends, and what it cost."""

from collections.abc import Collection
from typing import Any, Final

from libs.common.contracts.tokens import Frame, StreamEnd
from services.gateway.api.anthropic.request import Asked

UNSIGNED: Final = "unsigned"
"""Clients send a block of thinking back only with a signature. Nobody looks at it here."""


def message(asked: Asked, frame: Frame, end: StreamEnd) -> dict[str, Any]:
    text = [{"type": "text", "text": frame.text}] if frame.text else []
    thought = frame.thinking if asked.shows_thinking else ""
    thinking = [{"type": "thinking", "thinking": thought, "signature": UNSIGNED}] if frame.thinking else []
    calls = [tool_use(call, call["function"].get("arguments") or {}) for call in frame.tool_calls]
    return {
        **empty_message(frame.request_id, asked.name),
        "content": [*thinking, *text, *calls],
        **ending(end, asked.stops, called=bool(calls)),
        "usage": usage(end.usage.prompt_tokens, end.usage.completion_tokens),
    }


def empty_message(request_id: str, model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def tool_use(call: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """``call``: in the shape of Ollama's API."""
    return {"type": "tool_use", "id": call.get("id", ""), "name": call["function"]["name"], "input": arguments}


def ending(end: StreamEnd, stops: Collection[str], *, called: bool) -> dict[str, Any]:
    """``stops``: a stop string that is none of these is the model's, whose turn has ended."""
    if called:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if end.stop_sequence and end.stop_sequence in stops:
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_sequence}
    return {"stop_reason": "max_tokens" if end.done_reason == "length" else "end_turn", "stop_sequence": None}


def usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    """In tokens. Caches are not told of."""
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }
