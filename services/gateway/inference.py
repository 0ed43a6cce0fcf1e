"""The one use case behind every dialect: send a request, follow its token log, cancel it when nobody listens."""

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from prometheus_client import Counter, Gauge, Histogram
from redis.exceptions import RedisError

from libs.common.contracts.auth import Identity
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.inference import InferenceTask, ModelRef, Priority
from libs.common.contracts.scheduler import RequestInference
from libs.common.contracts.tokens import Frame
from libs.common.errors import ServiceError, Unavailable, rebuild
from libs.common.token_log.follower import Following
from libs.common.token_log.store import task_key

if TYPE_CHECKING:
    from services.gateway.context import Context

log = structlog.get_logger(__name__)

LARGEST_INLINE_TASK_BYTES = 256 * 1024
"""Longer prompts travel through Redis, so that the broker stays small and quick."""

_active = Gauge("gateway_streams_active", "Inference requests being followed")
_ended = Counter("gateway_requests_total", "Inference requests by outcome", ["kind", "outcome"])
_first_frame_seconds = Histogram(
    "gateway_time_to_first_token_seconds",
    "From accepting a request to its first frame",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


class InferenceStream:
    """The frames of one answer, in order; the last one has ``end``. A failed request raises its ``ServiceError``.

    Close it in every case: closing before the end cancels the request wherever it is.
    """

    def __init__(self, ctx: "Context", request: RequestInference, following: Following) -> None:
        self._ctx = ctx
        self._request = request
        self._following = following
        self._accepted = time.monotonic()
        self._outcome: str | None = None
        _active.inc()

    @property
    def request_id(self) -> str:
        return self._request.request_id

    async def __aiter__(self) -> AsyncIterator[Frame]:
        first = True
        while True:
            try:
                frame = await self._following.next()
            except ServiceError as error:
                self._outcome = error.code
                self._cancel()
                raise
            if first:
                first = False
                _first_frame_seconds.observe(time.monotonic() - self._accepted)
            if frame.end is None:
                yield frame
            elif frame.end.error is not None:
                self._outcome = frame.end.error.code
                raise rebuild(frame.end.error.code, frame.end.error.message)
            else:
                self._outcome = "done"
                yield frame
                return

    async def aclose(self) -> None:
        if self._following.request_id not in self._ctx.follower:
            return
        self._ctx.follower.forget(self.request_id)
        _active.dec()
        if self._outcome is None:
            self._cancel()
        _ended.labels(self._request.kind, self._outcome or "cancelled").inc()

    def _cancel(self) -> None:
        # In a task of the process: the task of a client that went away is itself being cancelled.
        self._ctx.tasks.start(_publish_cancel(self._ctx, self.request_id), "cancel")


async def _publish_cancel(ctx: "Context", request_id: str) -> None:
    try:
        await ctx.bus.publish(InferenceCancelled(request_id=request_id))
    except Unavailable as error:
        # The request's deadline frees its slot in the end.
        log.warning("could not publish a cancel", request_id=request_id, error=str(error))


async def start(
    ctx: "Context",
    identity: Identity,
    model: ModelRef,
    task: InferenceTask,
    *,
    priority: Priority = "interactive",
    deadline_seconds: float | None = None,
) -> InferenceStream:
    """Follow first, then send, so that no frame is missed. Raises ``Unavailable`` if the broker does not take it."""
    now = time.time()
    request_id = uuid4().hex
    deadline = now + (deadline_seconds or ctx.settings.request_deadline_seconds)
    task_json = task.model_dump_json(exclude_defaults=True)
    by_reference = len(task_json.encode()) > LARGEST_INLINE_TASK_BYTES
    request = RequestInference(
        request_id=request_id,
        organization_id=identity.organization_id,
        user_id=identity.user_id,
        key_id=identity.key_id,
        model=model,
        kind=task.kind,
        num_ctx=task.options.num_ctx,
        priority=priority,
        accepted_at=now,
        deadline=deadline,
        channel=ctx.follower.channel,
        task_json=None if by_reference else task_json,
    )
    stream = InferenceStream(ctx, request, ctx.follower.follow(request_id, deadline))
    try:
        if by_reference:
            await _store_task(ctx, request_id, task_json, deadline - now)
        await ctx.bus.send(request, message_id=request_id)
    except BaseException:
        # Sent or not, we cannot know: the cancel is for the case that it was.
        await stream.aclose()
        raise
    return stream


async def _store_task(ctx: "Context", request_id: str, task_json: str, seconds: float) -> None:
    try:
        await ctx.redis.set(task_key(request_id), task_json, px=int(seconds * 1000))
    except RedisError as error:
        raise Unavailable from error
