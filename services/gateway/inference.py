"""The one use case behind every dialect: send a request, follow its token log, cancel it when nobody listens."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from prometheus_client import Counter, Gauge, Histogram
from redis.exceptions import RedisError

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.inference import InferenceTask, ModelRef, Priority
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.tokens import Frame, Queued
from libs.common.errors import Restarting, ServiceError, Unavailable, rebuild
from libs.common.limits.store import State
from libs.common.token_log.follower import Following
from libs.common.token_log.store import Card, card_key, task_key
from services.gateway.estimate import estimate, prefix_hashes
from services.gateway.limits import Allowance, LimitReached
from services.gateway.transcripts import Transcript, is_exchange

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

    def __init__(
        self,
        ctx: "Context",
        request: RequestInference,
        following: Following,
        *,
        transcript: Transcript | None,
        allowance: Allowance | None,
    ) -> None:
        self._ctx = ctx
        self._allowance = allowance
        self._request = request
        self._following = following
        self._transcript = transcript
        self._accepted = time.monotonic()
        self._outcome: str | None = None
        _active.inc()

    @property
    def request_id(self) -> str:
        return self._request.request_id

    @property
    def limits(self) -> Sequence[State]:
        return self._allowance.states if self._allowance is not None else ()

    @property
    def headers(self) -> Mapping[str, str]:
        return _queue_headers(self._following.queued)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        first = True
        while True:
            try:
                frame = await self._following.next()
            except ServiceError as error:
                self._outcome = error.code
                if not isinstance(error, Restarting):
                    self._cancel()
                raise
            if first:
                first = False
                _first_frame_seconds.observe(time.monotonic() - self._accepted)
            if self._transcript is not None:
                self._transcript.add(frame)
            if frame.end is None:
                self._count(frame)
                yield frame
                continue
            if self._allowance is not None:
                await self._allowance.settle(frame.end.usage.prompt_tokens + frame.end.usage.completion_tokens)
            if frame.end.error is not None:
                self._outcome = frame.end.error.code
                raise rebuild(frame.end.error.code, frame.end.error.message, frame.end.error.retry_after)
            else:
                self._outcome = "done"
                yield frame
                return

    def _count(self, frame: Frame) -> None:
        """Raises ``LimitReached``: the request is cancelled, and its slot is free."""
        if self._allowance is None:
            return
        try:
            self._allowance.use(len(frame.token_ids) or 1)
        except LimitReached as error:
            self._outcome = error.code
            self._cancel()
            raise

    def break_off(self) -> None:
        """It is not cancelled: its caller reads on elsewhere."""
        self._outcome = Restarting.code
        self._following.fail(Restarting())

    async def aclose(self) -> None:
        if self._following.request_id not in self._ctx.follower:
            return
        self._ctx.follower.forget(self.request_id)
        self._ctx.answering.discard(self)
        _active.dec()
        if self._outcome is None:
            self._cancel()
        if self._allowance is not None and not self._allowance.settled:
            self._ctx.tasks.start(self._allowance.release(), "free slots")
        _ended.labels(self._request.kind, self._outcome or "cancelled").inc()
        if self._transcript is not None:
            self._ctx.tasks.start(self._transcript.send(self._ctx), "keep an exchange")

    def _cancel(self) -> None:
        # In a task of the process: the task of a client that went away is itself being cancelled.
        self._ctx.tasks.start(_publish_cancel(self._ctx, self.request_id), "cancel")


def _queue_headers(queued: Queued | None) -> dict[str, str]:
    """Of a request that had to wait: its place when it came, and how long that looked like."""
    if queued is None:
        return {}
    headers = {"X-Queue-Position": str(queued.position)}
    if queued.estimated_wait_seconds is not None:
        headers["X-Queue-Estimated-Wait-Ms"] = str(round(queued.estimated_wait_seconds * 1000))
    return headers


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
    request_id: str | None = None,
) -> InferenceStream:
    """Follow first, then send, so that no frame is missed. ``request_id``: of a caller who may look for it later.

    Raises ``LimitReached``, and ``Unavailable`` if the broker does not take it.
    """
    now, followed_elsewhere = time.time(), request_id is not None
    request_id = request_id or uuid4().hex
    deadline = now + (deadline_seconds or ctx.settings.request_deadline_seconds)
    task_json = task.model_dump_json(exclude_defaults=True)
    by_reference = len(task_json.encode()) > LARGEST_INLINE_TASK_BYTES
    expected = estimate(task, model)
    request = RequestInference(
        request_id=request_id,
        organization_id=identity.organization_id,
        user_id=identity.user_id,
        key_id=identity.key_id,
        model=model,
        kind=task.kind,
        num_ctx=task.options.num_ctx,
        priority=priority,
        prompt_tokens=expected.prompt,
        answer_tokens=expected.answer,
        organization_weight=identity.organization_weight,
        key_weight=identity.key_weight,
        prefix=prefix_hashes(task, model, identity.organization_id),
        accepted_at=now,
        deadline=deadline,
        channel=ctx.follower.channel,
        task_json=None if by_reference else task_json,
    )
    try:
        allowance = await ctx.limits.admit(identity, model.name, expected, request_id, deadline)
    except LimitReached:
        raise
    except BaseException:
        # Counted or not, we cannot know: its client went away, or Redis did not answer in time.
        ctx.tasks.start(ctx.limits.give_back(request_id), "give back what may have been counted")
        raise
    transcript = Transcript(request, task) if identity.stores_prompts and is_exchange(task) else None
    stream = InferenceStream(
        ctx, request, ctx.follower.follow(request_id, deadline), transcript=transcript, allowance=allowance
    )
    if not followed_elsewhere:
        ctx.answering.add(stream)
    card = ctx.tasks.start(_write_card(ctx, request), "write a card")
    try:
        if by_reference:
            await _store_task(ctx, request_id, task_json, deadline - now)
        await ctx.bus.send(request, message_id=request_id)
    except BaseException:
        # Sent or not, we cannot know: the cancel is for the case that it was.
        await stream.aclose()
        ctx.tasks.start(_forget_card(ctx, request_id, card), "forget a card")
        if allowance is not None:
            ctx.tasks.start(ctx.limits.give_back(request_id), "give back what was not sent")
        raise
    return stream


async def _write_card(ctx: "Context", request: RequestInference) -> None:
    """Beside the request's way, which does not wait for it."""
    card = Card(
        organization_id=request.organization_id,
        user_id=request.user_id or "",
        key_id=request.key_id or "",
        model=request.model.name,
        kind=request.kind,
        priority=request.priority,
        accepted_at=request.accepted_at,
        deadline=request.deadline,
    )
    try:
        await ctx.token_log.write_card(request.request_id, card)
    except RedisError as error:
        # Nobody can look at it while it runs, nor go on reading it elsewhere.
        log.warning("could not note whose a request is", request_id=request.request_id, error=str(error))


async def _forget_card(ctx: "Context", request_id: str, writing: "asyncio.Task[None]") -> None:
    """What was not sent has no end that would take its card along."""
    await asyncio.wait({writing})
    try:
        await ctx.redis.delete(card_key(request_id))
    except RedisError as error:
        log.warning("could not forget a card; it expires", request_id=request_id, error=str(error))


async def _store_task(ctx: "Context", request_id: str, task_json: str, seconds: float) -> None:
    try:
        await ctx.redis.set(task_key(request_id), task_json, px=int(seconds * 1000))
    except RedisError as error:
        raise Unavailable from error
