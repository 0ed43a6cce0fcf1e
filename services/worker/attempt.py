"""What becomes known of one grant while it runs, and what is told of it when it has ended."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from libs.common.contracts.scheduler import RequestInference
from libs.common.contracts.tokens import Frame, StreamEnd
from libs.common.contracts.worker import InferenceFinished, RunInference
from libs.common.errors import RequestCancelled, ServiceError, Unavailable
from libs.common.token_log.store import task_key
from services.worker.context import Context

log = structlog.get_logger(__name__)

attempts = Counter("worker_attempts_total", "Attempts by outcome", ["outcome"])


@dataclass
class Attempt:
    run: RunInference
    history: Sequence[Frame] = ()
    first_token_at: float | None = None
    load_ns: int = 0
    end: StreamEnd = field(default_factory=StreamEnd)

    @property
    def request(self) -> RequestInference:
        return self.run.request


def _outcome(error: ServiceError | None) -> str:
    if error is None:
        return "done"
    return "cancelled" if isinstance(error, RequestCancelled) else "failed"


async def announce(ctx: Context, attempt: Attempt, error: ServiceError | None) -> None:
    """Returns when the broker has the event, however long that takes: the answer is complete, only the books wait."""
    request, usage, outcome = attempt.request, attempt.end.usage, _outcome(error)
    attempts.labels(outcome).inc()
    if request.task_json is None:
        await _delete_task(ctx, request.request_id)
    event = InferenceFinished.model_validate(
        {
            **request.model_dump(include={"request_id", "organization_id", "user_id", "key_id", "kind", "accepted_at"}),
            "epoch": attempt.run.epoch,
            "worker_id": ctx.instance,
            "model": request.model.name,
            "outcome": outcome,
            "done_reason": attempt.end.done_reason,
            "error_code": error.code if error else None,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "granted_at": attempt.run.granted_at,
            "first_token_at": attempt.first_token_at,
            "finished_at": time.time(),
        }
    )
    await _publish_until_taken(ctx, event)


async def _delete_task(ctx: Context, request_id: str) -> None:
    try:
        await ctx.redis.delete(task_key(request_id))
    except RedisError as error:
        log.warning("could not delete a finished task; it expires", request_id=request_id, error=str(error))


async def _publish_until_taken(ctx: Context, event: InferenceFinished) -> None:
    while True:
        try:
            await ctx.bus.publish(event)
            return
        except Unavailable:
            log.warning("waiting for the broker to take the end of a request", request_id=event.request_id)
            await asyncio.sleep(0.5)
