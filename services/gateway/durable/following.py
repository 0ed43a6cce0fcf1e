"""The requests behind a piece of work, mostly one: begun once, and followed by whichever gateway has claimed it."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from redis.exceptions import RedisError

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.inference import InferenceTask, ModelRef, Priority
from libs.common.contracts.tokens import Frame
from libs.common.errors import Unavailable, rebuild
from libs.common.limits.store import State
from libs.common.token_log.tail import tail
from services.gateway.context import Context, FrameStream
from services.gateway.limits import LimitReached


@dataclass
class Following:
    """Stands in for ``inference.start``: a request that has a log already is not sent again.

    What is sent again before it has one, the scheduler knows by its id.
    """

    ctx: Context
    request_id: str
    asked: bool = False
    """It is known whether a request runs already, and if none did, one was sent."""

    began: bool = False
    """A frame came of the request as this gateway sent it."""

    stopped: bool = False
    """Nobody wants the work any more."""

    requests: int = 0
    """So many the work has asked for: whoever takes it over asks for the same in the same order."""

    async def __call__(
        self,
        ctx: Context,
        identity: Identity,
        model: ModelRef,
        task: InferenceTask,
        *,
        priority: Priority = "interactive",
        deadline_seconds: float | None = None,
        request_id: str | None = None,
    ) -> FrameStream:
        own_id = self._next_id()
        try:
            runs = await self.ctx.token_log.exists(own_id)
        except RedisError as error:
            raise Unavailable from error
        self.asked = True
        if runs:
            return _Resumed(self, own_id, self.ctx.settings.request_deadline_seconds)
        stream = await self.ctx.start_inference(
            self.ctx,
            identity,
            model,
            task,
            priority=priority,
            deadline_seconds=deadline_seconds,
            request_id=own_id,
        )
        return _Started(self, stream)

    def _next_id(self) -> str:
        """The first is that of the work, as which it is known elsewhere."""
        number, self.requests = self.requests, self.requests + 1
        return uuid5(NAMESPACE_OID, f"{self.request_id}/{number}").hex if number else self.request_id

    @property
    def handed_on(self) -> bool:
        """This process ends, and the work goes on: another gateway will follow the request."""
        task = asyncio.current_task()
        return not self.stopped and task is not None and task.cancelling() > 0


class _Started:
    limits: Sequence[State] = ()
    headers: Mapping[str, str] = {}

    def __init__(self, following: Following, stream: FrameStream) -> None:
        self._following = following
        self._stream = stream
        self.request_id = stream.request_id

    async def __aiter__(self) -> AsyncIterator[Frame]:
        try:
            async for frame in self._stream:
                self._following.began = True
                yield frame
        except LimitReached:
            self._following.began = True  # by a frame that was one too many
            raise

    async def aclose(self) -> None:
        if not self._following.handed_on:
            await self._stream.aclose()


class _Resumed:
    limits: Sequence[State] = ()
    headers: Mapping[str, str] = {}

    def __init__(self, following: Following, request_id: str, seconds: float) -> None:
        self._following = following
        self._seconds = seconds
        self._ended = False
        self.request_id = request_id

    async def __aiter__(self) -> AsyncIterator[Frame]:
        async for frame in tail(self._following.ctx.token_log, self.request_id, 0, time.time() + self._seconds):
            if frame.end is not None:
                self._ended = True
                if (error := frame.end.error) is not None:
                    raise rebuild(error.code, error.message, error.retry_after)
            yield frame

    async def aclose(self) -> None:
        if not self._ended and not self._following.handed_on:
            await self._following.ctx.bus.publish(InferenceCancelled(request_id=self.request_id))
