"""What happened, one row a request, written in batches off the hot path and exactly once by request id."""

import asyncio
from dataclasses import dataclass

import structlog

from libs.common.bus.base import Delivery
from libs.common.contracts.scheduler import RequestInference
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import Database
from libs.common.errors import Unavailable
from services.scheduler import store

log = structlog.get_logger(__name__)

GATHER_SECONDS = 0.1
LONGEST_BACKLOG = 50_000
"""Rows kept while Postgres is away; those of finished requests are safe in their queue besides."""


@dataclass(frozen=True)
class Row(store.JournalRow):
    """A journal row and, if it came as a message, the delivery to acknowledge once it is written."""

    delivery: Delivery | None = None

    @classmethod
    def finished(cls, event: InferenceFinished, delivery: Delivery) -> "Row":
        return cls(delivery=delivery, attempts=event.epoch, **event.model_dump(exclude={"epoch"}))

    @classmethod
    def unstarted(cls, request: RequestInference, outcome: str, error_code: str) -> "Row":
        return cls(
            request_id=request.request_id,
            organization_id=request.organization_id,
            user_id=request.user_id,
            key_id=request.key_id,
            model=request.model.name,
            kind=request.kind,
            outcome=outcome,
            error_code=error_code,
            accepted_at=request.accepted_at,
        )


class Journal:
    """``add`` never waits; ``run`` writes."""

    def __init__(self, db: Database, batch_size: int) -> None:
        self._db = db
        self._batch_size = batch_size
        self._rows: asyncio.Queue[Row] = asyncio.Queue(LONGEST_BACKLOG)
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, row: Row) -> None:
        try:
            self._rows.put_nowait(row)
            self._idle.clear()
        except asyncio.QueueFull:
            # Not acknowledged, so a finished request's row comes again; a refusal's row is gone, and said so.
            log.error("journal backlog is full", request_id=row.request_id, outcome=row.outcome)

    async def run(self) -> None:
        """Background loop."""
        while True:
            batch = [await self._rows.get()]
            await asyncio.sleep(GATHER_SECONDS)
            while len(batch) < self._batch_size and not self._rows.empty():
                batch.append(self._rows.get_nowait())
            await self._write(batch)
            if self._rows.empty():
                self._idle.set()

    async def flush(self, seconds: float) -> None:
        """Wait until everything added is written, at most so long."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout=seconds)
        except TimeoutError:
            log.error("journal not written in time", rows=self._rows.qsize())

    async def _write(self, batch: list[Row]) -> None:
        while True:
            try:
                async with self._db.transaction() as tx:
                    await store.insert_requests(tx, batch)
                break
            except Unavailable:
                log.warning("journal waits for Postgres", rows=len(batch) + self._rows.qsize())
                await asyncio.sleep(1)
        for row in batch:
            if row.delivery is not None:
                await row.delivery.ack()
