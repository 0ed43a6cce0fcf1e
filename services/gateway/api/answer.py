"""An answer on its way to the client: frames in, bytes out. A dialect says how they look."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.contracts.tokens import Frame, Logprob, StreamEnd
from libs.common.errors import ServiceError, StreamLost
from libs.common.telemetry import mark_current_failed
from services.gateway.api.door import Call
from services.gateway.context import FrameStream

Numbered = tuple[int, Frame]
"""A frame, and the number of the task it answers."""

SILENCE_SECONDS: Final = 15.0


class Rendering(Protocol):
    """How a dialect writes one streamed answer. ``choice``: the number of the task, where it answers several."""

    media_type: str
    silence: bytes
    """Sent when there was nothing to say for ``SILENCE_SECONDS``, so that nothing on the way closes the connection.

    Empty where a dialect has nothing that means nothing.
    """

    def opening(self, request_id: str) -> bytes:
        """Before everything else, when the first frame is there."""

    def chunk(self, frame: Frame, choice: int) -> bytes:
        """A frame that is not the last of its task."""

    def last(self, frame: Frame, end: StreamEnd, choice: int) -> bytes:
        """The last frame of a task, which may carry text too."""

    def closing(self) -> bytes:
        """After the last frames of all tasks."""

    def broken(self, error: ServiceError) -> bytes:
        """The answer ends here with an error, after its status was sent."""


class Requests:
    """The requests of one answer: their frames as they come. Close it in every case."""

    def __init__(self, streams: Sequence[FrameStream]) -> None:
        self._streams = streams

    @property
    def request_id(self) -> str:
        """Of the first."""
        return self._streams[0].request_id

    def tell(self, call: Call) -> None:
        """What headers tell: the first's place in the queue, complete with the first frame, and what all have left."""
        call.limits[:] = self._streams[-1].limits
        call.answer_headers.update(self._streams[0].headers)

    async def frames(self) -> AsyncGenerator[Numbered, None]:
        """Until each has ended. Raises the ``ServiceError`` of the first that fails."""
        if len(self._streams) == 1:
            async for frame in _to_its_end(self._streams[0]):
                yield 0, frame
            return
        coming: asyncio.Queue[Numbered | Exception] = asyncio.Queue(maxsize=len(self._streams))
        readers = [
            asyncio.create_task(_pass_on(stream, number, coming), name="read a choice")
            for number, stream in enumerate(self._streams)
        ]
        try:
            left = len(readers)
            while left:
                item = await coming.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                left -= item[1].end is not None
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def aclose(self) -> None:
        for stream in self._streams:
            await stream.aclose()


async def _pass_on(stream: FrameStream, number: int, to: "asyncio.Queue[Numbered | Exception]") -> None:
    try:
        async for frame in _to_its_end(stream):
            await to.put((number, frame))
    except Exception as error:
        await to.put(error)


async def _to_its_end(stream: FrameStream) -> AsyncIterator[Frame]:
    """Raises ``StreamLost`` for one that just stops."""
    ended = False
    async for frame in stream:
        yield frame
        ended = frame.end is not None
    if not ended:
        raise StreamLost


class StreamedAnswer(Response):
    """Sends each frame as it comes; closes the requests in every case."""

    def __init__(
        self, requests: Requests, first: Numbered, rest: AsyncGenerator[Numbered, None], rendering: Rendering
    ) -> None:
        super().__init__(media_type=rendering.media_type)
        del self.headers["content-length"]
        self._requests, self._first, self._rest, self._rendering = requests, first, rest, rendering
        self._sent_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with self._silence_broken(send):
                async for data in self._rendered():
                    if data:  # else it is as silent as without the frame
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                        self._sent_at = time.monotonic()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._rest.aclose()
            await self._requests.aclose()

    @asynccontextmanager
    async def _silence_broken(self, send: Send) -> AsyncIterator[None]:
        if not self._rendering.silence:
            yield
            return
        breaking = asyncio.create_task(self._break_silence(send), name="break a silence")
        try:
            yield
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)

    async def _break_silence(self, send: Send) -> None:
        while True:
            left = self._sent_at + SILENCE_SECONDS - time.monotonic()
            if left <= 0:
                await send({"type": "http.response.body", "body": self._rendering.silence, "more_body": True})
                self._sent_at = time.monotonic()
            else:
                await asyncio.sleep(left)

    async def _rendered(self) -> AsyncGenerator[bytes, None]:
        rendering, (choice, frame) = self._rendering, self._first
        before = rendering.opening(self._requests.request_id)
        try:
            yield before + _written(rendering, frame, choice)
            async for choice, frame in self._rest:
                yield _written(rendering, frame, choice)
            if after := rendering.closing():
                yield after
        except ServiceError as error:
            mark_current_failed(error.code)
            yield rendering.broken(error)


def _written(rendering: Rendering, frame: Frame, choice: int) -> bytes:
    return rendering.chunk(frame, choice) if frame.end is None else rendering.last(frame, frame.end, choice)


async def stream_answer(
    call: Call, model: ModelRef, tasks: Sequence[InferenceTask], rendering: Rendering
) -> StreamedAnswer:
    """Waits for the first frame, so that what fails before it is answered with its own status."""
    requests = await _start(call, model, tasks)
    frames = requests.frames()
    try:
        first = await anext(frames)
    except BaseException:
        await frames.aclose()
        await requests.aclose()
        raise
    finally:
        requests.tell(call)
    return StreamedAnswer(requests, first, frames, rendering)


async def whole_answers(
    call: Call, model: ModelRef, tasks: Sequence[InferenceTask], shown: Callable[[Frame], Frame] = lambda frame: frame
) -> list[tuple[Frame, StreamEnd]]:
    """For each task the last frame, with everything in it that came before. ``shown``: what is told of a frame."""
    requests = await _start(call, model, tasks)
    gathered = [_Gathered() for _ in tasks]
    frames = requests.frames()
    try:
        async for choice, frame in frames:
            gathered[choice].add(shown(frame))
        return [each.whole() for each in gathered]
    finally:
        requests.tell(call)
        await frames.aclose()
        await requests.aclose()


async def whole_answer(call: Call, model: ModelRef, task: InferenceTask) -> tuple[Frame, StreamEnd]:
    return (await whole_answers(call, model, [task]))[0]


class _Gathered:
    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[dict[str, Any]] = []
        self._logprobs: list[Logprob] = []
        self._last: Frame | None = None

    def add(self, frame: Frame) -> None:
        self._text.append(frame.text)
        self._thinking.append(frame.thinking)
        self._tool_calls += frame.tool_calls
        self._logprobs += frame.logprobs
        self._last = frame

    def whole(self) -> tuple[Frame, StreamEnd]:
        assert self._last is not None
        assert self._last.end is not None
        whole = msgspec.structs.replace(
            self._last,
            text="".join(self._text),
            token_ids=[],
            thinking="".join(self._thinking),
            tool_calls=self._tool_calls,
            logprobs=self._logprobs,
        )
        return whole, self._last.end


async def _start(call: Call, model: ModelRef, tasks: Sequence[InferenceTask]) -> Requests:
    """All of them, or none."""
    streams: list[FrameStream] = []
    try:
        for task in tasks:
            streams.append(
                await call.ctx.start_inference(
                    call.ctx, call.caller, model, task, priority=call.priority, deadline_seconds=call.deadline_seconds
                )
            )
    except BaseException:
        await Requests(streams).aclose()
        raise
    call.name_request(streams[0].request_id)
    return Requests(streams)
