"""Messages written to a database in batches: each is acknowledged once it is written, so that none is lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from libs.common.bus.base import Delivery
from libs.common.errors import Unavailable

log = structlog.get_logger(__name__)

GATHER_SECONDS = 0.1
PAUSE_SECONDS = 1.0

Item = TypeVar("Item")


class Batches(Generic[Item]):
    """``add`` never waits; ``run`` writes. The subscription's prefetch bounds how many wait.

    ``write`` may be called again with items it has written before. It raises ``Unavailable`` to be called again later;
    an item that it cannot write at all goes to the dead letters, alone.
    """

    def __init__(self, what: str, write: Callable[[Sequence[Item]], Awaitable[None]], size: int) -> None:
        self._what = what
        self._write = write
        self._size = size
        self._waiting: asyncio.Queue[tuple[Item, Delivery]] = asyncio.Queue()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, item: Item, delivery: Delivery) -> None:
        self._waiting.put_nowait((item, delivery))
        self._idle.clear()

    async def run(self) -> None:
        """Background loop."""
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(GATHER_SECONDS)
            while len(batch) < self._size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._settle(batch)
            if self._waiting.empty():
                self._idle.set()

    async def flush(self, seconds: float) -> None:
        """Wait until everything added is written, at most so long."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout=seconds)
        except TimeoutError:
            log.error("not written in time", what=self._what, waiting=self._waiting.qsize())

    async def _settle(self, batch: list[tuple[Item, Delivery]]) -> None:
        try:
            await self._until_available([item for item, _ in batch])
        except Exception as error:
            await self._refuse(batch, error)
        else:
            for _, delivery in batch:
                await delivery.ack()

    async def _refuse(self, batch: list[tuple[Item, Delivery]], error: Exception) -> None:
        """One bad item must not keep the others from being written."""
        if len(batch) > 1:
            for one in batch:
                await self._settle([one])
        else:
            log.error("cannot be written", what=self._what, exc_info=error)
            await batch[0][1].reject(f"{type(error).__name__}: {error}")

    async def _until_available(self, items: Sequence[Item]) -> None:
        while True:
            try:
                await self._write(items)
                return
            except Unavailable as error:
                log.warning("waits", what=self._what, items=len(items) + self._waiting.qsize(), why=error.message)
                await asyncio.sleep(PAUSE_SECONDS)
