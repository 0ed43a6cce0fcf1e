"""One answer on its way to the client: frames in, bytes out. A dialect says how they look."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.contracts.tokens import Frame, Logprob, StreamEnd
from libs.common.errors import ServiceError, StreamLost
from libs.common.telemetry import mark_current_failed
from services.gateway.api.door import Call
from services.gateway.context import FrameStream
from services.gateway.limits import LimitReached


class Rendering(Protocol):
    """How a dialect writes one streamed answer."""

    media_type: str

    def chunk(self, frame: Frame) -> bytes:
        """A frame that is not the last."""

    def last(self, frame: Frame, end: StreamEnd) -> bytes:
        """The last frame, which may carry text too."""

    def broken(self, error: ServiceError) -> bytes:
        """The answer ends here with an error, after its status was sent."""


class StreamedAnswer(Response):
    """Sends each frame as it comes; closes the stream in every case."""

    def __init__(self, stream: FrameStream, first: Frame, rest: AsyncIterator[Frame], rendering: Rendering) -> None:
        super().__init__(media_type=rendering.media_type)
        del self.headers["content-length"]
        self._stream, self._first, self._rest, self._rendering = stream, first, rest, rendering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for data in self._rendered():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._stream.aclose()

    async def _rendered(self) -> AsyncIterator[bytes]:
        frame = self._first
        try:
            while frame.end is None:
                yield self._rendering.chunk(frame)
                frame = await _next(self._rest)
            yield self._rendering.last(frame, frame.end)
        except ServiceError as error:
            mark_current_failed(error.code)
            yield self._rendering.broken(error)


async def stream_answer(call: Call, model: ModelRef, task: InferenceTask, rendering: Rendering) -> Response:
    """Waits for the first frame, so that what fails before it is answered with its own status."""
    stream = await _start(call, model, task)
    try:
        frames = aiter(stream)
        first = await _next(frames)
    except BaseException:
        await stream.aclose()
        raise
    finally:
        call.answer_headers.update(stream.headers)
    return StreamedAnswer(stream, first, frames, rendering)


async def whole_answer(call: Call, model: ModelRef, task: InferenceTask) -> tuple[Frame, StreamEnd]:
    """The last frame, with everything in it that came before."""
    text: list[str] = []
    thinking: list[str] = []
    tool_calls: list[dict[str, Any]] = []
    logprobs: list[Logprob] = []
    stream = await _start(call, model, task)
    try:
        async for frame in stream:
            text.append(frame.text)
            thinking.append(frame.thinking)
            tool_calls += frame.tool_calls
            logprobs += frame.logprobs
            if frame.end is not None:
                whole = Frame(
                    frame.request_id,
                    frame.epoch,
                    frame.seq,
                    text="".join(text),
                    thinking="".join(thinking),
                    tool_calls=tool_calls,
                    end=frame.end,
                    logprobs=logprobs,
                )
                return whole, frame.end
        raise StreamLost
    finally:
        call.answer_headers.update(stream.headers)
        await stream.aclose()


async def _start(call: Call, model: ModelRef, task: InferenceTask) -> FrameStream:
    try:
        stream = await call.ctx.start_inference(
            call.ctx, call.caller, model, task, priority=call.priority, deadline_seconds=call.deadline_seconds
        )
    except LimitReached as refusal:
        call.answer_headers.update(refusal.headers)
        raise
    call.name_request(stream.request_id)
    return stream


async def _next(frames: AsyncIterator[Frame]) -> Frame:
    try:
        return await anext(frames)
    except StopAsyncIteration:
        raise StreamLost from None
