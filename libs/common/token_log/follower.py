"""The gateway's side: one subscription for the process, whatever the number of requests it follows.

Frames arrive by pub/sub. A gap in ``seq``, or silence, is repaired from the stream, which is the truth.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import redis.asyncio as redis
import structlog
from prometheus_client import Counter
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from libs.common.contracts.tokens import Frame, Queued
from libs.common.errors import DeadlineExceeded, ServiceError, StreamLost
from libs.common.settings import RedisSettings
from libs.common.token_log.store import LOST_SECONDS, Cursor, TokenLogStore

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 0.5
SILENCE_SECONDS = 2.0
"""After this long without a frame the stream is read, in case the doorbell was missed."""

SILENCE_BEFORE_FIRST_SECONDS = 10.0
"""A request that waits for its turn says nothing for long."""

REPAIR_SECONDS = 3.0
"""At most, for one read of a stream: one connection that died without a word holds up nobody for longer."""

PING_SECONDS = 5.0
"""After this long without a message the subscription has to answer; as long again, and it is taken for dead."""

MOST_WAITING: Final = 256
"""Frames of one request that nobody has taken yet. A client that reads slowly gets the others from the stream."""

RETRY_SECONDS: Final = 0.2

UNREADABLE: Final = (msgspec.DecodeError, RecursionError)

StartTask = Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]

_repairs = Counter("token_log_repairs_total", "Reads of the stream because frames were missed or late", ["reason"])
_decoder = msgspec.msgpack.Decoder(list[Frame])


class Following:
    """One request's frames, in order, each once."""

    def __init__(self, request_id: str, deadline: float, catch_up: "Callable[[Following], Awaitable[None]]") -> None:
        self.request_id = request_id
        self.deadline = deadline
        self.is_behind = False
        """There is no room for what arrives: it is read from the stream later."""

        self._catch_up = catch_up
        self.cursor: Cursor = (0, 0)
        self.heard_at = time.monotonic()
        self.missing_since: float | None = None
        self.queued: Queued | None = None
        """Its place when it came, if it has to wait."""

        self._frames: deque[Frame] = deque()
        self._error: ServiceError | None = None
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        """Frames that have arrived and nobody has taken."""
        return len(self._frames)

    @property
    def patience(self) -> float:
        return SILENCE_SECONDS if self.cursor != (0, 0) else SILENCE_BEFORE_FIRST_SECONDS

    def take(self, frame: Frame) -> bool:
        """False if frames before this one are missing."""
        if frame.queued is not None:
            self.queued = frame.queued
            return True
        self.heard_at = time.monotonic()
        self.missing_since = None
        if len(self) >= MOST_WAITING:
            self.is_behind = True
            return True
        if frame.seq > self.cursor[1] + 1:
            return False
        if frame.seq <= self.cursor[1] and frame.epoch > self.cursor[0]:
            # The log was lost and a new attempt began at the beginning: its cuts are not those we have sent.
            self.fail(StreamLost())
        if frame.seq == self.cursor[1] + 1:
            self.cursor = (frame.epoch, frame.seq)
            self._frames.append(frame)
            self._arrived.set()
        return True

    def fail(self, error: ServiceError) -> None:
        self._error = error
        self._arrived.set()

    async def next(self) -> Frame:
        """The next frame. Raises ``DeadlineExceeded`` and ``StreamLost``."""
        while not self._frames:
            if self._error is not None:
                raise self._error
            if self.is_behind:
                await self._catch_up(self)
                continue
            self._arrived.clear()
            await self._arrived.wait()
        return self._frames.popleft()


class LogFollower:
    """All requests this gateway follows; ``channel`` is the doorbell to name in a request."""

    def __init__(self, store: TokenLogStore, instance: str) -> None:
        self._store = store
        self.channel = f"omx:gateway:{instance}"
        self._following: dict[str, Following] = {}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, client: "redis.Redis", settings: RedisSettings, instance: str, start_task: StartTask
    ) -> AsyncIterator["LogFollower"]:
        follower = cls(TokenLogStore(client, settings), instance)
        subscribed = asyncio.Event()
        tasks = (
            start_task(follower._listen(settings, subscribed), "token log subscription"),
            start_task(follower._sweep(), "token log repairs"),
        )
        try:
            await asyncio.wait_for(subscribed.wait(), timeout=10)
            yield follower
        finally:
            for task in tasks:
                task.cancel()

    def __len__(self) -> int:
        return len(self._following)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._following

    def follow(self, request_id: str, deadline: float) -> Following:
        """Begin before the request is sent, so that nothing is missed. ``deadline`` in seconds since the epoch."""
        following = Following(request_id, deadline, self._catch_up)
        self._following[request_id] = following
        return following

    def forget(self, request_id: str) -> None:
        self._following.pop(request_id, None)

    async def _listen(self, settings: RedisSettings, subscribed: asyncio.Event) -> None:
        while True:
            # A connection of its own without a read timeout: silence is normal here.
            client = redis.Redis.from_url(settings.url.get_secret_value(), socket_connect_timeout=2)
            try:
                async with client, client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(self.channel)
                    subscribed.set()
                    for following in self._following.values():
                        following.heard_at = 0  # whatever was said while nobody listened is read by the next sweep
                    async for data in _messages(pubsub):
                        await self._deliver(_decode(data))
            except (RedisError, OSError) as error:
                log.warning("lost the token log subscription, subscribing again", error=str(error))
                await asyncio.sleep(0.2)

    async def _deliver(self, frames: list[Frame]) -> None:
        for frame in frames:
            following = self._following.get(frame.request_id)
            if following is not None and not following.is_behind and not following.take(frame):
                _repairs.labels("gap").inc()
                await self._repair(following)

    async def _repair(self, following: Following) -> None:
        try:
            async with asyncio.timeout(REPAIR_SECONDS):
                if not await self._read_on(following) and following.cursor != (0, 0):
                    await self._notice_loss(following)
        except (RedisError, TimeoutError) as error:
            log.warning("could not read the token log", request_id=following.request_id, error=str(error))
        except UNREADABLE:
            following.fail(StreamLost())

    async def _read_on(self, following: Following) -> int:
        """The number of entries found; as many as fit where there may be more."""
        entries = await self._store.read(following.request_id, after=following.cursor, most=MOST_WAITING)
        for entry in entries:
            if entry.frame is not None:
                following.take(entry.frame)
        if len(entries) == MOST_WAITING:
            following.is_behind = True
        return len(entries)

    async def _catch_up(self, following: Following) -> None:
        """All that was waiting has been taken."""
        cursor = following.cursor
        try:
            if await self._read_on(following) < MOST_WAITING:
                following.is_behind = False
                await self._read_on(following)  # what arrived in between was not listened to
            elif following.cursor == cursor:
                following.fail(StreamLost())  # frames that nobody has taken are gone
        except RedisError as error:
            log.warning("could not read the token log", request_id=following.request_id, error=str(error))
            if time.time() > following.deadline:
                following.fail(DeadlineExceeded())
            else:
                await asyncio.sleep(RETRY_SECONDS)
        except UNREADABLE:
            following.fail(StreamLost())

    async def _notice_loss(self, following: Following) -> None:
        if await self._store.exists(following.request_id):
            following.missing_since = None
        elif following.missing_since is None:
            following.missing_since = time.monotonic()
        elif time.monotonic() - following.missing_since > LOST_SECONDS:
            following.fail(StreamLost())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now, clock, silent = time.time(), time.monotonic(), []
            for following in list(self._following.values()):
                if now > following.deadline and not following.is_behind:  # the end may be among what it has not read
                    following.fail(DeadlineExceeded())
                elif clock - following.heard_at > following.patience and not following.is_behind:
                    following.heard_at = clock
                    _repairs.labels("silence").inc()
                    silent.append(self._repair(following))
            await asyncio.gather(*silent)


def _decode(data: bytes) -> list[Frame]:
    """Nothing if they cannot be read: whose they are is not known, each finds its own missing and reads the stream."""
    try:
        return _decoder.decode(data)
    except UNREADABLE as error:
        log.error("frames that cannot be read", error=str(error))
        return []


async def _messages(pubsub: PubSub) -> AsyncIterator[bytes]:
    """What is published. Raises ``RedisError`` also when the connection was lost without a word, as NATs do it."""
    pinged = False
    while True:
        message = await pubsub.get_message(timeout=PING_SECONDS)
        if message is not None:
            pinged = False
            if message["type"] == "message":
                yield message["data"]
        elif pinged:
            raise redis.ConnectionError("the subscription does not answer")
        else:
            await pubsub.ping()
            pinged = True
