"""Appending: each event once, in batches, at the end of the chain, whoever of the replicas does it."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import structlog
from prometheus_client import Counter

from libs.common.batches import Batches
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.database import EVERY_ORGANIZATION, Database, Transaction
from libs.common.sealing import CannotOpenError, Place, Ring
from services.auth.audit.chain import EPOCH, START, Chain, moment
from services.auth.audit.lines import dumped
from services.auth.store import audit as store
from services.auth.store.audit import Entry, Head

log = structlog.get_logger(__name__)

BATCH: Final = 500
CLOCKS_DIFFER: Final = timedelta(days=1)
"""At most: an event's ``at`` is another machine's time."""

TEXTS: Final = (
    *("event_id", "service", "action", "object", "organization_id"),
    *("user_id", "key_id", "session_id", "ip", "user_agent", "request_id"),
)
LONGEST_TEXT: Final = 1000
LARGEST_ROW: Final = 24_000
"""Characters of ``before`` and of ``after``: a page of 200 entries must fit into one message."""

TOO_LARGE: Final = "(too large to record)"
KEY_PLACE: Final = Place("audit_key", "sealed_key", "chain")

tampered_total = Counter("auth_audit_tampered_total", "Times the end of the audit log was not as auth had left it")


async def open_log(db: Database, ring: Ring) -> "AuditLog":
    """The first replica to start makes the key and an empty chain.

    Raises ``SystemExit`` if the key does not open, or is gone while there are rows.
    """
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        sealed = await store.lock_key(tx)
        if sealed is None:
            if await store.last_seq(tx):
                raise SystemExit("the key of the audit log was removed: restore the table audit_key from a backup")
            sealed = ring.seal(secrets.token_bytes(32), KEY_PLACE)
            await store.insert_key(tx, sealed)
            chain = open_chain(sealed, ring)
            await store.put_head(tx, chain.signed(Head(0, EPOCH, START)))
    return AuditLog(db, open_chain(sealed, ring))


def open_chain(sealed_key: bytes, ring: Ring) -> Chain:
    try:
        return Chain(ring.open(sealed_key, KEY_PLACE))
    except CannotOpenError:
        raise SystemExit("AUTH_SECRET_KEY is not the one the audit log's key was sealed with") from None


@dataclass
class AuditLog:
    """What was not acknowledged after it was written comes again, and changes nothing."""

    db: Database
    chain: Chain
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _months: set[date] = field(default_factory=set)
    _seen: Head = field(default_factory=lambda: Head(0, EPOCH, START))
    """The end that this process has written last: nobody may bring back an earlier one."""

    def __post_init__(self) -> None:
        self.events: Batches[RecordAudit] = Batches("audit log", self.append, BATCH)

    async def append(self, events: Sequence[RecordAudit]) -> None:
        """Those that are not there yet. Raises ``Unavailable``."""
        async with self.db.transaction(EVERY_ORGANIZATION) as tx:
            end = await self._end(tx)
            new = await self._new(tx, events)
            if not new:
                return
            now = max(self.clock(), end.recorded_at)
            month = now.date().replace(day=1)
            await self._make_room(tx, month)
            entries: list[Entry] = []
            for event in new:
                last = entries[-1] if entries else end
                entries.append(self.chain.linked(_entry(event, last.seq + 1, now, last.hash)))
            await store.insert_entries(tx, entries)
            head = self.chain.signed(Head(entries[-1].seq, now, entries[-1].hash))
            await store.put_head(tx, head)
        self._seen = head
        self._months.add(month)

    async def _end(self, tx: Transaction) -> Head:
        """Where to go on. If that is not as auth has left it, the chain goes on with a break that stays."""
        head, last_seq = await store.lock_head(tx), await store.last_seq(tx)
        here = await store.hash_of(tx, self._seen.seq) or self._seen.hash  # archived by now, perhaps
        if head and self.chain.is_ours(head) and head.seq >= max(self._seen.seq, last_seq) and here == self._seen.hash:
            return head
        tampered_total.inc()
        seq = max(last_seq, self._seen.seq, head.seq if head else 0)
        log.error("somebody changed the audit log; verify it", found=head.seq if head else None, expected=seq)
        return Head(seq, self._seen.recorded_at, self._seen.hash)

    async def _new(self, tx: Transaction, events: Sequence[RecordAudit]) -> list[RecordAudit]:
        by_id = {event.event_id: event for event in events}
        since = min(moment(event.at) for event in events) - CLOCKS_DIFFER
        known = await store.known_events(tx, list(by_id), since)
        return [event for event_id, event in by_id.items() if event_id not in known]

    async def _make_room(self, tx: Transaction, month: date) -> None:
        """Partitions are made ahead; this is for a process that was the only one, and was away for months."""
        if month not in self._months:
            await store.make_partition(tx, month)


def _entry(event: RecordAudit, seq: int, now: datetime, previous: bytes) -> Entry:
    texts = {name: _storable(getattr(event, name)) for name in TEXTS}
    return Entry(
        seq=seq,
        recorded_at=now,
        at=moment(event.at),
        before=_json(event.before),
        after=_json(event.after),
        previous=previous,
        hash=b"",
        **texts,
    )


def _storable(text: str) -> str:
    """As much of it as fits, without what Postgres cannot store."""
    return text.replace("\0", "").encode(errors="replace").decode()[:LONGEST_TEXT]


def _json(row: Mapping[str, Any] | None) -> str | None:
    """Of a row that is too large, only the columns that are not."""
    if row is None:
        return None
    text = dumped(row)
    if len(text) > LARGEST_ROW:
        text = dumped({name: value if len(dumped(value)) <= LONGEST_TEXT else TOO_LARGE for name, value in row.items()})
    return text if len(text) <= LARGEST_ROW else dumped({TOO_LARGE: len(text)})
