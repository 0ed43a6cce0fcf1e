"""What runs batches: each gateway takes a few lines at a time, and whatever else waits for somebody to do it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter as Count
from prometheus_client import Gauge

from libs.common import actor
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import ServiceError
from services.gateway.batches.lines import Answered, run_line
from services.gateway.batches.reading import CLAIM_SECONDS, place_of, read_input
from services.gateway.batches.results import write_results
from services.gateway.context import Context
from services.gateway.durable.attempts import Later
from services.gateway.durable.following import Following
from services.gateway.durable.lane import Lane
from services.gateway.store import batch_lines as line_store
from services.gateway.store import batches as batch_store
from services.gateway.store.batch_lines import ClaimedLine
from services.gateway.store.batches import Batch

log = structlog.get_logger(__name__)

_answered = Count("gateway_batch_lines_total", "Lines of batches by what became of them", ["outcome"])


class Lines:
    """The lines of batches, as a kind of durable work."""

    running = Gauge("gateway_batch_lines_running", "Lines of batches under way")

    def most(self, ctx: Context) -> int:
        return ctx.settings.batch_lines

    async def claim(self, tx: Transaction, by: str, seconds: float, not_of: Collection[str]) -> ClaimedLine | None:
        return await line_store.claim(tx, by, seconds, not_of)

    async def run(self, ctx: Context, work: ClaimedLine, following: Following) -> Answered | Later:
        return await run_line(ctx, work, following)

    async def note(self, ctx: Context, by: str, work: ClaimedLine, outcome: Answered | Later) -> None:
        if isinstance(outcome, Later):
            async with ctx.db.transaction(work.organization_id) as tx:
                await line_store.give_back(tx, by, work, lost=outcome.lost, asked=outcome.asked)
                if outcome.seconds:
                    await batch_store.let_wait(tx, work.batch_id, outcome.seconds)
            _answered.labels("later").inc()
            return
        sealed = await asyncio.to_thread(ctx.sealing.seal, outcome.line, place_of("answer", work.id))
        async with ctx.db.transaction(work.organization_id) as tx:
            if await line_store.answer(tx, work.batch_id, work.number, sealed, succeeded=outcome.succeeded):
                _answered.labels("succeeded" if outcome.succeeded else "failed").inc()

    async def keep(self, tx: Transaction, by: str, works: Sequence[ClaimedLine], seconds: float) -> Collection[str]:
        """Those of batches that are cancelled or over are not wanted."""
        await line_store.keep_claims(tx, by, [work.id for work in works], seconds)
        stopped = await batch_store.stopped(tx, list({work.batch_id for work in works}))
        return {work.id for work in works if work.batch_id in stopped}


@dataclass
class Runner:
    """One batch at a time begins or ends here; and as many lines as the settings say are under way."""

    ctx: Context
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    lines: Lane[ClaimedLine, Answered] = field(init=False)
    _at_a_batch: bool = False

    def __post_init__(self) -> None:
        self.lines = Lane(self.ctx, Lines(), self.wake)

    async def look(self) -> None:
        """Begin whatever there is to do. Raises ``Unavailable``."""
        if not self._at_a_batch:
            await self._take_batch()
        await self.lines.look()

    async def keep(self) -> None:
        """Raises ``Unavailable``."""
        await self.lines.keep()

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
