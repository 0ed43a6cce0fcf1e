"""The end of a request as it is told to all who keep books: by its worker, or by the scheduler in its place."""

import asyncio
import time
from typing import Any, Final, Literal

import structlog

from libs.common.bus.base import Bus
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.tokens import StreamEnd
from libs.common.contracts.worker import InferenceFinished
from libs.common.errors import RequestCancelled, Unavailable

log = structlog.get_logger(__name__)

PAUSE_SECONDS: Final = 0.5


def outcome_of(end: StreamEnd) -> Literal["done", "failed", "cancelled"]:
    if end.error is None:
        return "done"
    return "cancelled" if end.error.code == RequestCancelled.code else "failed"


def finished(request: RequestInference, epoch: int, end: StreamEnd, **told: Any) -> InferenceFinished:
    """``told``: what only who tells it knows."""
    outcome, now = outcome_of(end), time.time()
    return InferenceFinished.model_validate(
        {
            **request.model_dump(include={"request_id", "organization_id", "user_id", "key_id", "kind", "accepted_at"}),
            "epoch": epoch,
            "model": request.model.name,
            "outcome": outcome,
            "done_reason": end.done_reason,
            "error_code": end.error.code if end.error else None,
            "prompt_tokens": end.usage.prompt_tokens,
            "completion_tokens": end.usage.completion_tokens,
            "finished_at": now,
            "attempts": request.after(outcome, now).attempts,
            **told,
        }
    )


async def publish_until_taken(bus: Bus, event: InferenceFinished) -> None:
    """Returns when the broker has it, however long that takes."""
    while True:
        try:
            await bus.publish(event)
            return
        except Unavailable:
            log.warning("waiting for the broker to take the end of a request", request_id=event.request_id)
            await asyncio.sleep(PAUSE_SECONDS)
