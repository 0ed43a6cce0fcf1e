"""Appending: each event once, whoever appends it, however often it comes."""

import asyncio

from libs.common.database import EVERY_ORGANIZATION, Database
from services.auth.audit.log import AuditLog, open_log
from tests.fixtures.batches import written
from tests.integration.audit.conftest import RING, an_event


async def recorded(db: Database) -> list[tuple[int, str]]:
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        return [
            (seq, event_id)
            for seq, event_id in await (await tx.execute("select seq, event_id from audit_log order by seq")).fetchall()
        ]


async def test_events_are_numbered_without_gaps(auth_db: Database, audit_log: AuditLog) -> None:
    events = [an_event() for _ in range(5)]
    await audit_log.append(events[:2])
    await audit_log.append(events[2:])
    assert await recorded(auth_db) == [(number, one.event_id) for number, one in enumerate(events, 1)]


async def test_an_event_that_comes_again_is_there_once(auth_db: Database, audit_log: AuditLog) -> None:
    first, second = an_event(), an_event()
    await audit_log.append([first, first])
    await audit_log.append([first, second, first])
    await audit_log.append([second])
    assert await recorded(auth_db) == [(1, first.event_id), (2, second.event_id)]


async def test_replicas_that_append_at_once_make_one_chain(auth_db: Database, audit_log: AuditLog) -> None:
    other = await open_log(auth_db, RING)
    batches = [[an_event() for _ in range(3)] for _ in range(20)]
    await asyncio.gather(*((audit_log, other)[number % 2].append(batch) for number, batch in enumerate(batches)))
    assert [seq for seq, _ in await recorded(auth_db)] == list(range(1, 61))


async def test_what_cannot_be_written_is_put_aside_alone(auth_db: Database, audit_log: AuditLog) -> None:
    events = [an_event(), an_event(after={"n": float("nan")}), an_event()]
    answers = await written(audit_log.events, events)
    assert [answers[0], answers[2]] == ["ack", "ack"]
    assert answers[1].startswith("InvalidTextRepresentation")
    assert await recorded(auth_db) == [(1, events[0].event_id), (2, events[2].event_id)]
