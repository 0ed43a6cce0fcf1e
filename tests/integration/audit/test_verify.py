"""Whatever is done to the log by SQL, even by a superuser without triggers, is found."""

import asyncio

import psycopg
import pytest

from libs.common.database import EVERY_ORGANIZATION, Database
from services.auth.audit.log import AuditLog, open_log
from services.auth.audit.verify import verify
from tests.integration.audit.conftest import RING, Tamper, an_event

LAST = 9
FORGED = "seq, recorded_at, event_id, at, service, action, object, organization_id, user_id, key_id, session_id, ip,"
FORGED += " user_agent, request_id, before, after, previous, hash"


@pytest.fixture
async def log(audit_log: AuditLog) -> AuditLog:
    """With nine entries."""
    for number in range(1, LAST + 1):
        await audit_log.append([an_event(object=f"o{number}", before={"a": number}, after={"a": 1.5})])
    return audit_log


async def problems(log: AuditLog, known: tuple[int, bytes] | None = None) -> list[str]:
    return [problem async for problem in verify(log.db, log.chain, known=known)]


async def test_an_untouched_log_is_whole(log: AuditLog) -> None:
    assert await problems(log) == []


async def test_the_service_itself_can_change_nothing(log: AuditLog) -> None:
    for statement in ("update audit_log set ip = ''", "delete from audit_log", "truncate audit_log"):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            async with log.db.transaction(EVERY_ORGANIZATION) as tx:
                await tx.execute(statement.encode())


COLUMNS = {
    "seq": "100", "recorded_at": "recorded_at + interval '1 microsecond'", "event_id": "'other'",
    "at": "at - interval '1 microsecond'", "service": "'other'", "action": "'other'", "object": "'other'",
    "organization_id": "'other'", "user_id": "'other'", "key_id": "'other'", "session_id": "'other'", "ip": "'other'",
    "user_agent": "'other'", "request_id": "'other'", "before": "null", "after": "'{\"a\": 1.5}'", "previous": "hash",
    "hash": "previous",
}  # fmt: skip


@pytest.mark.parametrize("seq", [1, 5, LAST])
async def test_any_column_of_any_row(log: AuditLog, tamper: Tamper, seq: int) -> None:
    tamper("create table spare as select * from audit_log")
    for column, value in COLUMNS.items():
        tamper(f"update audit_log set {column} = {value} where seq = {seq}")
        assert str(seq) in (await problems(log))[0], column
        tamper("delete from audit_log", f"insert into audit_log ({FORGED}) select {FORGED} from spare")
        assert await problems(log) == []


async def test_every_column_is_covered(log: AuditLog) -> None:
    async with log.db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await tx.execute("select column_name from information_schema.columns where table_name = 'audit_log'")
        assert {name for (name,) in await rows.fetchall()} == set(COLUMNS)


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ("seq = 1", "row 1 is missing"),
        ("seq = 5", "row 5 is missing"),
        ("seq between 3 and 6", "rows 3 to 6 are missing"),
        ("seq = 9", "row 9 is missing"),
        ("seq > 7", "rows 8 to 9 are missing"),
        ("true", "rows 1 to 9 are missing"),
    ],
)
async def test_removed_rows(log: AuditLog, tamper: Tamper, removed: str, expected: str) -> None:
    tamper(f"delete from audit_log where {removed}")
    assert await problems(log) == [expected]


async def test_removed_rows_whose_gap_was_closed(log: AuditLog, tamper: Tamper) -> None:
    tamper("delete from audit_log where seq = 5", "update audit_log set seq = seq - 1 where seq > 5")
    assert (await problems(log))[0] == "row 5 was changed, or never written by auth"


async def test_rows_that_changed_places(log: AuditLog, tamper: Tamper) -> None:
    tamper("update audit_log set seq = case seq when 3 then 4 else 3 end where seq in (3, 4)")
    assert (await problems(log))[0] == "row 3 was changed, or never written by auth"


async def test_a_row_that_was_copied(log: AuditLog, tamper: Tamper) -> None:
    tamper(f"insert into audit_log ({FORGED}) select {FORGED} from audit_log where seq = 4")
    assert await problems(log) == ["row 4 comes again, after row 4"]


@pytest.mark.parametrize("seq", [0, -4])
async def test_a_row_before_the_first(log: AuditLog, tamper: Tamper, seq: int) -> None:
    tamper(f"insert into audit_log ({FORGED}) select {FORGED.replace('seq,', f'{seq},')} from audit_log where seq = 1")
    assert await problems(log) == [f"row {seq} was never written by auth"]


async def test_a_row_that_was_appended(log: AuditLog, tamper: Tamper) -> None:
    changed = FORGED.replace("seq,", "seq + 1,").replace("previous, hash", "hash, hash")
    tamper(f"insert into audit_log ({FORGED}) select {changed} from audit_log where seq = 9")
    assert await problems(log) == [
        "row 10 was changed, or never written by auth",
        "rows 10 to 10 come after the end of the log",
    ]


@pytest.mark.parametrize(
    "statement",
    ["delete from audit_head", "update audit_head set seq = 8", "update audit_head set signature = hash"],
)
async def test_the_head(log: AuditLog, tamper: Tamper, statement: str) -> None:
    tamper("delete from audit_log where seq = 9", statement)
    assert await problems(log) == ["the head of the log was changed or removed: its newest rows may be missing"]


async def test_an_earlier_head_that_was_brought_back_contradicts_what_was_noted(log: AuditLog, tamper: Tamper) -> None:
    tamper("create table earlier as select * from audit_head")
    await log.append([an_event()])
    async with log.db.transaction() as tx:
        row = await (await tx.execute("select seq, hash from audit_head")).fetchone()
        assert row is not None
    tamper(
        "delete from audit_log where seq = 10",
        "update audit_head set (seq, recorded_at, hash, signature) = "
        "(select seq, recorded_at, hash, signature from earlier)",
    )
    assert await problems(log) == []
    assert await problems(log, (row[0], row[1])) == ["row 10 is missing"]


async def test_who_has_written_later_rows_does_not_accept_an_earlier_head(log: AuditLog, tamper: Tamper) -> None:
    tamper("create table earlier as select * from audit_head")
    other = await open_log(log.db, RING)
    await log.append([an_event()])
    tamper(
        "delete from audit_log where seq = 10",
        "update audit_head set (seq, recorded_at, hash, signature) = "
        "(select seq, recorded_at, hash, signature from earlier)",
    )
    await other.append([an_event()])
    assert await problems(log) == [], "for who comes new, all is well"
    await log.append([an_event()])
    assert await problems(log) == ["row 11 was not written after the row before it"]


async def test_after_a_break_the_log_goes_on_and_the_break_stays(log: AuditLog, tamper: Tamper) -> None:
    tamper("delete from audit_log where seq > 7", "delete from audit_head")
    await log.append([an_event()])
    await log.append([an_event()])
    assert await problems(log) == ["rows 8 to 9 are missing"]


async def test_reading_and_appending_at_once(auth_db: Database, log: AuditLog) -> None:
    async def append() -> None:
        for _ in range(50):
            await log.append([an_event()])

    appending = asyncio.create_task(append())
    while not appending.done():
        assert await problems(log) == []
    await appending
    assert await problems(log) == []
