"""The worker's side: one writer for the process, which sends what all its requests have produced in one call.

While one call is under way the next tokens gather, so the busier the worker, the fewer calls a token costs.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from io import StringIO
from typing import Any

import structlog
from redis.exceptions import RedisError

from libs.common.contracts.tokens import FIRST_EPOCH, Frame, Logprob, StreamEnd, encode_frame
from libs.common.token_log.store import Append, Entry, Outcome, Status, TokenLogStore

log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.2


class Fenced(Exception):
    """A newer attempt owns this request, or it has ended: whoever gets this stops and says nothing more."""


class Ended(Fenced):
    """The request is over; there is nothing left to do for anybody."""


class RequestLog:
    """One attempt at one request. ``write`` gathers; the writer sends.

    Every frame is kept, encoded, until the request ends: should Redis forget the log, it is written again from here.
    """

    def __init__(
        self, writer: "LogWriter", request_id: str, epoch: int, channel: str, history: Iterable[Frame]
    ) -> None:
        self._writer = writer
        self.request_id = request_id
        self.epoch = epoch
        self.channel = channel
        self._frames: list[bytes] = [encode_frame(frame) for frame in history]
        self._sent = len(self._frames)
        self._text = StringIO()
        self._thinking = StringIO()
        self._token_ids: list[int] = []
        self._tool_calls: list[dict[str, Any]] = []
        self._logprobs: list[Logprob] = []
        self._gathered = False
        """There is something that is in no frame yet."""

        self._closed = False
        self._applied = asyncio.Event()
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write(
        self,
        text: str,
        token_ids: Iterable[int] = (),
        thinking: str = "",
        tool_calls: Iterable[dict[str, Any]] = (),
        logprobs: Iterable[Logprob] = (),
    ) -> None:
        """Thinking and what follows it get frames of their own. Raises ``Fenced`` if this attempt was overtaken.

        What cannot be written fails here, where it ends its own request, and not in the writer.
        """
        if self._settled.done():
            self._settled.result()
        if thinking:
            self._thinking.write(thinking)
        if self._thinking.tell() and (text or tool_calls):
            self._close_frame()
        self._text.write(text)
        self._token_ids.extend(token_ids)
        self._tool_calls.extend(tool_calls)
        self._logprobs.extend(logprobs)
        self._gathered = True
        if tool_calls:
            self._close_frame()  # a model writes them: any JSON may come
        self._writer.wake(self)

    async def finish(self, end: StreamEnd) -> None:
        """Returns when the end is in the log. Raises ``Fenced``."""
        self._close_frame(end)
        self._closed = True
        self._writer.wake(self)
        await asyncio.shield(self._settled)

    async def flush(self) -> None:
        """Returns when all that was written is in the log. Raises ``Fenced``."""
        while self._gathered or self._sent < len(self._frames):
            if self._settled.done():
                self._settled.result()
            self._writer.wake(self)
            self._applied.clear()
            await self._applied.wait()

    def next_append(self) -> Append | None:
        """What is to be sent now: the frames not yet acknowledged, the last one made of what has gathered since."""
        if self._gathered:
            self._close_frame()
        if self._sent == len(self._frames) or self._settled.done():
            return None
        return Append(self.request_id, self.epoch, self._sent + 1, self._closed, self._frames[self._sent :])

    def _close_frame(self, end: StreamEnd | None = None) -> None:
        """Of all that has gathered."""
        frame = Frame(
            self.request_id,
            self.epoch,
            len(self._frames) + 1,
            text=self._text.getvalue(),
            token_ids=self._token_ids,
            thinking=self._thinking.getvalue(),
            tool_calls=self._tool_calls,
            logprobs=self._logprobs,
            end=end,
        )
        self._text, self._thinking = StringIO(), StringIO()
        self._token_ids, self._tool_calls, self._logprobs = [], [], []
        self._gathered = False
        self._frames.append(encode_frame(frame))

    def apply(self, outcome: Outcome) -> bool:
        """Take in what the log said; True if there is more to send."""
        self._applied.set()
        if outcome.status in (Status.OK, Status.GAP):
            self._sent = outcome.last_seq
            if self._closed and self._sent == len(self._frames) and not self._settled.done():
                self._settled.set_result(None)
        elif not self._settled.done():
            error = Ended("it has ended") if outcome.status is Status.ENDED else Fenced("another attempt has the log")
            self._settled.set_exception(error)
            self._settled.exception()  # mark as retrieved: the attempt may be gone before it looks
        return not self._settled.done() and (self._gathered or self._sent < len(self._frames))


class LogWriter:
    """Call ``run`` as a background task."""

    def __init__(self, store: TokenLogStore) -> None:
        self._store = store
        self._waiting: dict[RequestLog, None] = {}
        self._awake = asyncio.Event()

    async def open(self, request_id: str, epoch: int, channel: str) -> tuple[RequestLog, list[Frame]]:
        """The log of a new attempt, and the frames of earlier ones. Raises ``Fenced`` and ``redis.RedisError``."""
        entries: list[Entry] = await self._store.read(request_id) if epoch > FIRST_EPOCH else []
        if entries and entries[-1].epoch > epoch:
            raise Fenced("a newer attempt has begun")
        history = [entry.frame for entry in entries if entry.frame is not None]
        if history and history[-1].end is not None:
            raise Ended("it has ended")
        return RequestLog(self, request_id, epoch, channel, history), history

    def wake(self, request_log: RequestLog) -> None:
        self._waiting[request_log] = None
        self._awake.set()

    async def run(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            batch, self._waiting = self._waiting, {}
            by_channel: dict[str, list[RequestLog]] = defaultdict(list)
            for request_log in batch:
                by_channel[request_log.channel].append(request_log)
            await asyncio.gather(*(self._flush(channel, logs) for channel, logs in by_channel.items()))

    async def _flush(self, channel: str, logs: list[RequestLog]) -> None:
        appends = {request_log: append for request_log in logs if (append := request_log.next_append())}
        if not appends:
            return
        try:
            outcomes = await self._store.append(channel, list(appends.values()))
        except RedisError as error:
            # Redis restarts: nothing is lost, every frame is still here, and the request keeps its lease.
            log.warning("the token log is not reachable", error=str(error), requests=len(appends))
            await asyncio.sleep(RETRY_SECONDS)
            for request_log in appends:
                self.wake(request_log)
            return
        for request_log, outcome in zip(appends, outcomes, strict=True):
            if request_log.apply(outcome):
                self.wake(request_log)
