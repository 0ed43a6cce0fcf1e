"""A response in the background as its readers get it: from the log while it is there, else from what was kept."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from redis.exceptions import RedisError

from libs.common.contracts.tokens import Frame
from libs.common.errors import DeadlineExceeded, NotFound, RequestCancelled, StreamLost, Unavailable, rebuild
from libs.common.limits.store import State
from libs.common.token_log.tail import GRACE_SECONDS, tail
from services.gateway.context import Context
from services.gateway.responses import keeping
from services.gateway.store import responses as store
from services.gateway.store.responses import StoredResponse

T = TypeVar("T")

LOOK_SECONDS: Final = 0.1
LONGEST_LOOK_SECONDS: Final = 3.0
"""Between looks at a response that waits for its turn, or for its end to be kept."""


class Reading:
    """A ``FrameStream`` that leaves the request alone: what becomes of it is said by the response's row."""

    limits: Sequence[State] = ()
    headers: Mapping[str, str] = {}

    def __init__(self, ctx: Context, row: StoredResponse) -> None:
        self._ctx = ctx
        self._row = row
        self.request_id = row.request_id

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """Raises the error with which it ended, and ``NotFound`` when it is deleted. What is away, it waits for."""
        seen, pause = 0, LOOK_SECONDS
        while not self._row.ended:
            async for frame in self._logged(seen):
                seen, pause = frame.seq, LOOK_SECONDS
                yield frame
            if time.time() > self._row.deadline_at + self._ctx.settings.request_deadline_seconds + GRACE_SECONDS:
                raise DeadlineExceeded
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_LOOK_SECONDS)
            self._row = await self._until_there(self._look)
        async for frame in self._kept(seen):
            yield frame

    async def _logged(self, seen: int) -> AsyncIterator[Frame]:
        """Without its end: who has seen that finds the response. And a try that failed need not be the last."""
        log, request_id = self._ctx.token_log, self._row.request_id
        try:
            if not await log.exists(request_id):
                return
            deadline = time.time() + self._ctx.settings.request_deadline_seconds
            async for frame in tail(log, request_id, seen, deadline):
                if frame.end is not None:
                    return
                yield frame
        except (RedisError, Unavailable, StreamLost, DeadlineExceeded):
            return  # the row knows what becomes of it

    async def _look(self) -> StoredResponse:
        async with self._ctx.db.transaction(self._row.organization_id) as tx:
            row = await store.get(tx, self._row.id, None)
        if row is None:
            raise NotFound(f"Response with id '{self._row.id}' not found.")
        return row

    @staticmethod
    async def _until_there(read: Callable[[], Awaitable[T]]) -> T:
        """Its readers are not told that a response has failed because the database is away."""
        while True:
            try:
                return await read()
            except Unavailable:
                await asyncio.sleep(LONGEST_LOOK_SECONDS)

    async def _kept(self, seen: int) -> AsyncIterator[Frame]:
        told = await self._until_there(lambda: keeping.told(self._ctx, self._row))
        for frame in told.frames if told else ():
            if frame.seq > seen:
                yield frame
        if told is None:
            raise RequestCancelled
        if told.error is not None:
            raise rebuild(told.error.code, told.error.message)

    async def aclose(self) -> None:
        """Whoever reads it is not who asked for it."""
