"""What runs batches: each gateway takes a few lines at a time, and whatever else waits for somebody to do it.

All is claimed in Postgres for a while. A gateway that dies leaves its claims to expire, and another one goes on.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog
from prometheus_client import Counter as Count
from prometheus_client import Gauge

from libs.common import actor
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import ServiceError, Unavailable
from libs.common.resealing import SealedColumn, reseal
from services.gateway.batches.following import Following
from services.gateway.batches.lines import Answered, Later, request_id_of, run_line
from services.gateway.batches.reading import CLAIM_SECONDS, place_of, read_input
from services.gateway.batches.results import write_results
from services.gateway.context import Context
from services.gateway.store import batch_lines as line_store
from services.gateway.store import batches as batch_store
from services.gateway.store import files as file_store
from services.gateway.store.batch_lines import ClaimedLine
from services.gateway.store.batches import Batch

log = structlog.get_logger(__name__)

LEASE_SECONDS: Final = 10.0
KEEP_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 3.0
CHANNEL: Final = "batches_gateway"

OLD_LOOK_SECONDS: Final = 600.0
OLD_AT_ONCE: Final = 5
"""To delete the pieces of more takes longer than a statement may."""

_running = Gauge("gateway_batch_lines_running", "Lines of batches under way")
_answered = Count("gateway_batch_lines_total", "Lines of batches by what became of them", ["outcome"])


@dataclass
class _Running:
    line: ClaimedLine
    following: Following
    task: "asyncio.Task[None]"


@dataclass
class Runner:
    ctx: Context
    name: str = field(default_factory=lambda: uuid4().hex)
    """Its claims on lines are in it: one that has expired may be somebody else's by now."""

    lines: dict[str, _Running] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _at_a_batch: bool = False

    async def look(self) -> None:
        """Begin whatever there is to do. Raises ``Unavailable``."""
        if not self._at_a_batch:
            await self._take_batch()
        while len(self.lines) < self.ctx.settings.batch_lines and await self._take_line():
            pass

    async def _take_batch(self) -> None:
        async with self.ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            await batch_store.expire(tx)
            batch = await batch_store.claim(tx, CLAIM_SECONDS)
        if batch is not None:
            self._at_a_batch = True
            self.ctx.tasks.start(self._work_at(batch), "a batch begins or ends")

    async def _work_at(self, batch: Batch) -> None:
        actor.become(
            actor.Actor(organization_id=batch.organization_id, user_id=batch.user_id, key_id=batch.key_id or "")
        )
        work: Callable[[Context, Batch], Awaitable[None]]
        work = read_input if batch.status == "validating" else write_results
        try:
            await work(self.ctx, batch)
        except ServiceError as error:
            # The claim expires, and somebody tries again.
            log.warning("a batch has to wait", batch=batch.id, status=batch.status, reason=error.message)
        finally:
            self._at_a_batch = False
            self.wake.set()

    async def _take_line(self) -> bool:
        async with self.ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            line = await line_store.claim(tx, self.name, LEASE_SECONDS, self._with_enough())
        if line is None or line.id in self.lines:
            return False  # ours, whose claim has expired while Postgres was away
        following = Following(self.ctx, request_id_of(line))
        task = self.ctx.tasks.start(self._run(line, following), "a line of a batch")
        self.lines[line.id] = _Running(line, following, task)
        _running.set(len(self.lines))
        return True

    def _with_enough(self) -> list[str]:
        """Organizations that have as many lines here as are free, so that none of them ever holds up all others."""
        free = self.ctx.settings.batch_lines - len(self.lines)
        held = Counter(running.line.organization_id for running in self.lines.values())
        return [organization for organization, lines in held.items() if lines >= free]

    async def _run(self, line: ClaimedLine, following: Following) -> None:
        try:
            outcome = await run_line(self.ctx, line, following)
            await self._until_postgres_is_there(lambda: self._note(line, outcome))
        except asyncio.CancelledError:
            if not following.stopped:
                raise
            await self._until_postgres_is_there(lambda: self._note(line, Later()))
        finally:
            del self.lines[line.id]
            _running.set(len(self.lines))
            self.wake.set()

    async def _note(self, line: ClaimedLine, outcome: Answered | Later) -> None:
        if isinstance(outcome, Later):
            async with self.ctx.db.transaction(line.organization_id) as tx:
                await line_store.give_back(tx, self.name, line, lost=outcome.lost)
                if outcome.seconds:
                    await batch_store.let_wait(tx, line.batch_id, outcome.seconds)
            _answered.labels("later").inc()
            return
        sealed = await asyncio.to_thread(self.ctx.sealing.seal, outcome.line, place_of("answer", line.id))
        async with self.ctx.db.transaction(line.organization_id) as tx:
            if await line_store.answer(tx, line.batch_id, line.number, sealed, succeeded=outcome.succeeded):
                _answered.labels("succeeded" if outcome.succeeded else "failed").inc()

    @staticmethod
    async def _until_postgres_is_there(work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Unavailable as error:
                log.warning("a line of a batch waits to be noted", reason=error.message)
                await asyncio.sleep(KEEP_SECONDS)
            else:
                return

    async def keep(self) -> None:
        """Ours stay ours; those of batches that are cancelled or over are stopped. Raises ``Unavailable``."""
        if not self.lines:
            return
        batches = {running.line.batch_id for running in self.lines.values()}
        async with self.ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            await line_store.keep_claims(tx, self.name, list(self.lines), LEASE_SECONDS)
            stopped = await batch_store.stopped(tx, list(batches))
        for running in self.lines.values():
            if running.line.batch_id in stopped and not running.following.stopped:
                running.following.stopped = True
                running.task.cancel()


async def run_batches(ctx: Context) -> None:
    """Background loop. A gateway that drains takes nothing new."""
    runner = Runner(ctx)
    ctx.tasks.start(_listen(runner), "hear of batches")
    ctx.tasks.start(_keep(runner), "keep lines of batches")
    while not ctx.draining.is_set():
        runner.wake.clear()
        try:
            await runner.look()
        except Unavailable as error:
            log.warning("batches wait", reason=error.message)
        await runner.wake.wait()
    await asyncio.Event().wait()


async def _listen(runner: Runner) -> None:
    while True:
        try:
            async for _ in runner.ctx.db.wake_ups(CHANNEL, LOOK_SECONDS):
                runner.wake.set()
        except Unavailable:
            await asyncio.sleep(LOOK_SECONDS)


async def _keep(runner: Runner) -> None:
    while True:
        await asyncio.sleep(KEEP_SECONDS)
        try:
            await runner.keep()
        except Unavailable as error:
            log.warning("lines of batches could not be kept", reason=error.message)


async def forget_old(ctx: Context) -> None:
    """Background loop: expired files, uploads that were given up, and batches that ended long ago."""
    while True:
        try:
            async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
                deleted = await file_store.delete_old(tx, OLD_AT_ONCE)
                deleted += await batch_store.delete_old(tx, ctx.settings.file_days, OLD_AT_ONCE)
        except Unavailable as error:
            log.warning("old files could not be deleted", reason=error.message)
            deleted = 0
        await asyncio.sleep(0 if deleted else OLD_LOOK_SECONDS)


async def seal_anew(ctx: Context) -> None:
    """Background loop."""
    columns = [("file_chunks", "sealed"), ("batch_lines", "sealed"), ("batch_lines", "answer")]
    await reseal(ctx.db, ctx.sealing, [SealedColumn(table, column, "id") for table, column in columns])
