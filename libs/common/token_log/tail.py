"""Any gateway's view of a request it did not start: read from the stream, which is the truth, until the end."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from libs.common.contracts.tokens import Frame
from libs.common.errors import DeadlineExceeded, StreamLost, Unavailable
from libs.common.token_log.store import LOST_SECONDS, Cursor, Entry, TokenLogStore

LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 0.4
"""Between looks at a log that is silent: a request that waits, or a long prompt."""

MOST_AT_ONCE = 256

GRACE_SECONDS = 5.0
"""After the deadline, for the end to be written."""


async def tail(store: TokenLogStore, request_id: str, after: int, deadline: float) -> AsyncIterator[Frame]:
    """The frames whose ``seq`` is above ``after``, each once, up to the one with ``end``.

    ``deadline`` of the request, in seconds since the epoch. Raises ``StreamLost``, ``DeadlineExceeded`` and, while
    Redis is away, ``Unavailable``.
    """
    place, pause = _Place((0, after)), LOOK_SECONDS
    while True:
        entries = await _read(store, request_id, place)
        for entry in entries:
            if place.is_new(entry) and entry.frame is not None:
                yield entry.frame
            if entry.frame is not None and entry.frame.end is not None:
                return
        if len(entries) < MOST_AT_ONCE:
            if time.time() > deadline + GRACE_SECONDS:
                raise DeadlineExceeded
            pause = LOOK_SECONDS if entries else min(pause * 1.5, LONGEST_LOOK_SECONDS)
            await asyncio.sleep(pause)


@dataclass
class _Place:
    sent: Cursor
    """Of the last frame handed out; epoch 0: another gateway handed it out."""

    read: Cursor = (0, 0)
    there_at: float = field(default_factory=time.monotonic)

    def is_new(self, entry: Entry) -> bool:
        """Raises ``StreamLost``."""
        self.read = (entry.epoch, entry.seq)
        if entry.frame is None:
            return False
        if entry.seq <= self.sent[1]:
            if 0 < self.sent[0] < entry.epoch:
                raise StreamLost  # the log was lost, and a new attempt cuts its frames elsewhere
            return False
        self.sent = self.read
        return True


async def _read(store: TokenLogStore, request_id: str, place: _Place) -> list[Entry]:
    """Raises ``StreamLost`` and ``Unavailable``."""
    try:
        entries = await store.read(request_id, after=place.read, most=MOST_AT_ONCE)
        if entries or place.read == (0, 0) or await store.exists(request_id):
            place.there_at = time.monotonic()
    except RedisError as error:
        raise Unavailable from error
    if time.monotonic() - place.there_at > LOST_SECONDS:
        raise StreamLost
    return entries
