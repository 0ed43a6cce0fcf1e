"""Between a response and its request: what the frames come to, and their end held back until that is kept."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.inference import InferenceTask, ModelRef, Priority
from libs.common.contracts.tokens import Frame
from libs.common.limits.store import State
from services.gateway.api.openai.responses.shown import Reply
from services.gateway.api.openai.responses.story import Story
from services.gateway.context import Context, FrameStream


@dataclass
class Gathering:
    """Stands in for ``inference.start``, of one request.

    ``reply_of``: by the request's id. ``keep``: waited for before the end is told. ``frames``: gets all of them.
    """

    ctx: Context
    reply_of: Callable[[str], Reply]
    keep: Callable[[Reply, dict[str, Any]], Awaitable[None]] | None = None
    frames: list[Frame] | None = None
    response: dict[str, Any] = field(default_factory=dict)
    """Once it has ended."""

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
        stream = await self.ctx.start_inference(
            self.ctx,
            identity,
            model,
            task,
            priority=priority,
            deadline_seconds=deadline_seconds,
            request_id=request_id,
        )
        return _Gathered(self, stream)


class _Gathered:
    def __init__(self, gathering: Gathering, stream: FrameStream) -> None:
        self._gathering = gathering
        self._stream = stream
        self.request_id = stream.request_id

    @property
    def limits(self) -> Sequence[State]:
        return self._stream.limits

    @property
    def headers(self) -> Mapping[str, str]:
        return self._stream.headers

    async def __aiter__(self) -> AsyncIterator[Frame]:
        reply = self._gathering.reply_of(self.request_id)
        story = Story(reply)
        async for frame in self._stream:
            story.hear(frame)
            if self._gathering.frames is not None:
                self._gathering.frames.append(frame)
            if frame.end is not None:
                await self._end(reply, story)
            yield frame

    async def _end(self, reply: Reply, story: Story) -> None:
        done = {"completed_at": int(time.time())} if story.response["status"] == "completed" else {}
        self._gathering.response = story.response | done
        if self._gathering.keep is not None:
            await self._gathering.keep(reply, self._gathering.response)

    async def aclose(self) -> None:
        await self._stream.aclose()
