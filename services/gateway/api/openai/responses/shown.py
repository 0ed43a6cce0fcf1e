"""A response as its clients see it, whatever has become of it."""

from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Literal

from libs.common.contracts.tokens import StreamEnd
from libs.common.errors import InvalidRequest, RateLimited, RequestCancelled, ServiceError
from services.gateway.api.openai.responses.items import Item
from services.gateway.api.openai.responses.request import Asked

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

NOT_HERE: Final = {"conversation": None, "moderation": None, "prompt": None, "service_tier": "default"}


@dataclass(frozen=True)
class Reply:
    """What is known of a response before its answer. ``created_at``: seconds since the epoch."""

    asked: Asked
    id: str
    created_at: int
    kept: bool

    def shown(self, status: Status, output: list[Item], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": self.asked.background,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self.asked.model,
            "output": output,
            "store": self.kept,
            "usage": None,
            **NOT_HERE,
            **self.asked.echo,
            **more,
        }

    def ended(self, output: list[Item], end: StreamEnd, thinking_share: float) -> dict[str, Any]:
        """``thinking_share``: of what was generated, from 0 to 1."""
        usage = _usage(end, thinking_share)
        if end.done_reason == "length":
            return self.shown("incomplete", output, incomplete_details={"reason": "max_output_tokens"}, usage=usage)
        return self.shown("completed", output, usage=usage)

    def failed(self, output: list[Item], error: ServiceError) -> dict[str, Any]:
        if isinstance(error, RequestCancelled):
            return self.shown("cancelled", output)
        return self.shown("failed", output, error={"code": _code(error), "message": error.message})


def _code(error: ServiceError) -> str:
    if isinstance(error, RateLimited):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"


def _usage(end: StreamEnd, thinking_share: float) -> dict[str, Any]:
    asked, answered = end.usage.prompt_tokens, end.usage.completion_tokens
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": ceil(answered * thinking_share)},
        "total_tokens": asked + answered,
    }
