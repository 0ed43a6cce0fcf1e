"""Messages that leave if, and only if, their transaction commits; at least once, in about the order they were staged.

``stage`` writes a row beside the change it tells of. One task of each process takes rows, sends them, and deletes them;
Postgres wakes it at each commit. A process that dies in between leaves its claim to expire. Events go first: somebody
waits for them. What nobody takes now waits, and with it all of its kind, but nothing else; what can never be sent is
parked: ``parked_because`` says why, and setting it to null tries again.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import structlog
from prometheus_client import Counter, Gauge
from psycopg.rows import class_row
from psycopg.types.json import Json
from pydantic import ValidationError

import libs.common.contracts.auth.audit  # noqa: F401  the audit triggers stage its message in SQL
from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.contracts.message import MESSAGES, Command, Event
from libs.common.database import Database, Transaction
from libs.common.errors import ServiceError, Unavailable

log = structlog.get_logger(__name__)

BATCH: Final = 200
CLAIM_SECONDS: Final = 30
LOOK_ANYWAY_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 1.0
LATE_SECONDS: Final = 60.0

staged_messages = Gauge("outbox_messages", "Messages that have not left yet", ["schema"])
oldest_seconds = Gauge("outbox_oldest_seconds", "Age of the oldest message that has not left yet", ["schema"])
parked_total = Counter("outbox_parked_total", "Messages that can never be sent", ["message"])


@dataclass(frozen=True)
class _Staged:
    id: int
    message: str
    body: str
    actor: str


async def stage(tx: Transaction, message: Command | Event) -> None:
    """Whoever handles it acts for whom this task acts for."""
    await tx.execute(
        "insert into outbox (message, body, urgent) values (%s, %s, %s)",
        [message.wire_name, Json(message.model_dump(mode="json")), isinstance(message, Event)],
    )


async def relay(db: Database, bus: Bus, schema: str) -> None:
    """Background loop of every service that has tables."""
    relaying = Relay(db, bus, schema)
    while True:
        try:
            async for _ in db.wake_ups(f"outbox_{schema}", LOOK_ANYWAY_SECONDS):
                while await relaying.send_some():
                    pass
                await relaying.report()
                _notice_cancellation()
        except Unavailable as error:
            log.warning("staged messages wait", why=error.message)
            await asyncio.sleep(PAUSE_SECONDS)


def _notice_cancellation() -> None:
    """``asyncio.wait_for`` of Python 3.11, with which psycopg's pool waits, swallows one now and then."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@dataclass
class Relay:
    db: Database
    bus: Bus
    schema: str
    waiting: dict[str, float] = field(default_factory=dict)
    """Kinds of messages that nobody took, and until when they are left alone; by the monotonic clock."""

    _report_at: float = 0.0

    async def send_some(self) -> int:
        """How many were looked at. Raises ``Unavailable``; what was claimed then is free again for whoever is next."""
        async with self.db.transaction() as tx:
            claimed = await _claim(tx, self._kinds())
        sent: list[int] = []
        parked: dict[int, str] = {}
        try:
            # At once: each waits for the broker's confirm. They are written in order, and handled in about that order.
            failed = await asyncio.gather(*(self._try(one, sent, parked) for one in claimed), return_exceptions=True)
        finally:
            if claimed:
                async with self.db.transaction() as tx:
                    await _settle(tx, sent, parked, [staged.id for staged in claimed])
        for error in filter(None, failed):
            raise error
        return len(claimed)

    async def report(self) -> None:
        """Rows of a class that this process does not know are left to one that does: a newer version, most likely."""
        if time.monotonic() < self._report_at:
            return
        self._report_at = time.monotonic() + LOOK_ANYWAY_SECONDS
        async with self.db.transaction() as tx:
            count, age, kinds = await _unsent(tx)
        staged_messages.labels(self.schema).set(count)
        oldest_seconds.labels(self.schema).set(age)
        if age > LATE_SECONDS:
            log.warning("staged messages are late", count=count, oldest_seconds=round(age), messages=kinds)

    def _kinds(self) -> list[str]:
        now = time.monotonic()
        self.waiting = {kind: until for kind, until in self.waiting.items() if until > now}
        return [kind for kind in MESSAGES if kind not in self.waiting]

    async def _try(self, staged: _Staged, sent: list[int], parked: dict[int, str]) -> None:
        """Raises ``Unavailable`` if it is the broker that is away: then nothing can be sent."""
        try:
            await self._send(staged)
            sent.append(staged.id)
        except Unavailable as error:
            if not self.bus.connected:
                raise
            self._let_wait(staged.message, error)
        except (ServiceError, ValidationError) as error:
            parked[staged.id] = _park(staged, error)

    async def _send(self, staged: _Staged) -> None:
        message = MESSAGES[staged.message].model_validate_json(staged.body)
        actor.become(actor.decode(staged.actor))
        if isinstance(message, Event):
            await self.bus.publish(message)
        else:
            assert isinstance(message, Command)
            await self.bus.send(message, message_id=f"outbox-{self.schema}-{staged.id}")

    def _let_wait(self, kind: str, error: Unavailable) -> None:
        if kind not in self.waiting:
            log.warning("staged messages of this kind wait", message=kind, why=error.message)
        self.waiting[kind] = time.monotonic() + LOOK_ANYWAY_SECONDS


def _park(staged: _Staged, error: ServiceError | ValidationError) -> str:
    # A ValidationError's own text shows the value, which may be a secret.
    reason = error.message if isinstance(error, ServiceError) else "no longer a valid message"
    log.error("a staged message can never be sent", id=staged.id, message=staged.message, why=reason)
    parked_total.labels(staged.message).inc()
    return reason


async def _claim(tx: Transaction, kinds: list[str]) -> list[_Staged]:
    async with tx.cursor(row_factory=class_row(_Staged)) as cursor:
        await cursor.execute(
            """
            with free as (
                select id from outbox
                where parked_because is null and (claimed_until is null or claimed_until < now()) and message = any(%s)
                order by urgent desc, id limit %s for update skip locked
            ), claimed as (
                update outbox set claimed_until = now() + make_interval(secs => %s) from free where outbox.id = free.id
                returning outbox.id, message, body, actor, urgent
            )
            select id, message, body::text as body, actor from claimed order by urgent desc, id
            """,
            [kinds, BATCH, CLAIM_SECONDS],
        )
        return await cursor.fetchall()


async def _settle(tx: Transaction, sent: list[int], parked: dict[int, str], claimed: list[int]) -> None:
    await tx.execute("delete from outbox where id = any(%s)", [sent])
    await tx.execute("update outbox set claimed_until = null where id = any(%s)", [claimed])
    await tx.execute(
        """
        update outbox set parked_because = parked.reason
        from unnest(%s::bigint[], %s::text[]) as parked (id, reason) where outbox.id = parked.id
        """,
        [list(parked), list(parked.values())],
    )


async def _unsent(tx: Transaction) -> tuple[int, float, list[str]]:
    """How many, how old the oldest is in seconds, and of which kinds."""
    rows = await tx.execute(
        """
        select count(*), coalesce(extract(epoch from clock_timestamp() - min(staged_at)), 0)::float8,
               coalesce(array_agg(distinct message), '{}')
        from outbox where parked_because is null
        """
    )
    row = await rows.fetchone()
    assert row is not None
    return int(row[0]), float(row[1]), list(row[2])
