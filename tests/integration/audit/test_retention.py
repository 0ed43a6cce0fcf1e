"""Months that are old enough become files; the chain goes from the files on into the database."""

import threading
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from libs.common.database import EVERY_ORGANIZATION
from services.auth.audit import retention
from services.auth.audit.lines import line
from services.auth.audit.log import AuditLog
from services.auth.audit.retention import Archiver, Broken
from services.auth.audit.upkeep import make_room
from services.auth.audit.verify import digest_of, read_archive, verify
from services.auth.store import audit as store
from tests.integration.audit.conftest import Tamper, an_event

TODAY = date(2026, 5, 20)


class KilledBeforeDropping(Archiver):
    async def drop(self, *_: object) -> None:
        raise KeyboardInterrupt


class KilledWhileDropping(Archiver):
    async def drop(self, month: date, span: store.Span | None, archive: store.Archive | None) -> None:
        assert archive is not None
        async with self.db.transaction(EVERY_ORGANIZATION) as tx:
            await store.insert_archive(tx, archive)
            await store.drop_partition(tx, month)
            raise KeyboardInterrupt


class Overtaken(Archiver):
    """By another replica, which archives all while this one is about to."""

    async def _look(self, month: date) -> tuple[store.Span | None, tuple[int, bytes]]:
        seen = await super()._look(month)
        await Archiver(**vars(self)).run(TODAY)
        return seen


@pytest.fixture
async def log(audit_log: AuditLog) -> AuditLog:
    """Three entries in each month from January to May."""
    for month in range(1, 6):
        audit_log.clock = lambda month=month: datetime(2026, month, 15, tzinfo=UTC)  # type: ignore[misc]
        await audit_log.append([an_event(after={"month": month, "π": "\0"}) for _ in range(3)])
    return audit_log


@pytest.fixture
def archiver(log: AuditLog, tmp_path: Path) -> Archiver:
    return Archiver(log.db, log.chain, tmp_path, months=2)


async def problems(log: AuditLog, directory: Path | None = None) -> list[str]:
    return [problem async for problem in verify(log.db, log.chain, directory)]


def files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


async def first_seq(log: AuditLog) -> int:
    async with log.db.transaction(EVERY_ORGANIZATION) as tx:
        return min([entry.seq async for entry in store.entries(tx)])


async def test_old_months_leave_and_the_rest_verifies(log: AuditLog, archiver: Archiver, tmp_path: Path) -> None:
    await archiver.run(TODAY)
    assert files(tmp_path) == ["audit-2026-01-1-3.jsonl.gz", "audit-2026-02-4-6.jsonl.gz"]
    assert await first_seq(log) == 7
    assert await problems(log) == []
    assert await problems(log, tmp_path) == []
    kept = list(read_archive(tmp_path / "audit-2026-02-4-6.jsonl.gz"))
    assert [entry.seq for entry in kept] == [4, 5, 6]
    assert all(map(log.chain.fits, kept))


async def test_what_comes_after_an_archive_is_appended_to_it(log: AuditLog, tmp_path: Path) -> None:
    await Archiver(log.db, log.chain, tmp_path, months=0).run(date(2026, 7, 1))
    log.clock = lambda: datetime(2026, 8, 1, tzinfo=UTC)
    await log.append([an_event()])
    assert await first_seq(log) == 16
    assert await problems(log, tmp_path) == []


@pytest.mark.parametrize("killed", [KilledBeforeDropping, KilledWhileDropping])
async def test_interrupted_it_begins_again(archiver: Archiver, log: AuditLog, killed: type[Archiver]) -> None:
    with pytest.raises(KeyboardInterrupt):
        await killed(**vars(archiver)).run(TODAY)
    assert await first_seq(log) == 1
    assert await problems(log, archiver.directory) == []
    await archiver.run(TODAY)
    assert await first_seq(log) == 7
    assert await problems(log, archiver.directory) == []
    assert len(files(archiver.directory)) == 2


async def test_of_two_replicas_one_archives(archiver: Archiver, log: AuditLog) -> None:
    async with log.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await store.hold_archiving(tx)
        await archiver.run(TODAY)
        assert files(archiver.directory) == []
    await archiver.run(TODAY)
    assert await first_seq(log) == 7


async def test_who_is_overtaken_leaves_the_file_alone(archiver: Archiver, log: AuditLog) -> None:
    with pytest.raises(Broken):
        await Overtaken(**vars(archiver)).archive(date(2026, 1, 1))
    assert len(files(archiver.directory)) == 2
    assert await problems(log, archiver.directory) == []


async def test_a_month_without_entries_may_be_gone_already(archiver: Archiver, log: AuditLog) -> None:
    async with log.db.transaction(EVERY_ORGANIZATION) as tx:
        await store.make_partition(tx, date(2025, 12, 1))
    await Overtaken(**vars(archiver)).archive(date(2025, 12, 1))
    async with log.db.transaction(EVERY_ORGANIZATION) as tx:
        assert date(2025, 12, 1) not in await store.partitions(tx)


async def test_files_are_written_beside_the_event_loop(archiver: Archiver, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()

    def noting(entry: store.Entry) -> str:
        threads.add(threading.current_thread())
        return line(entry)

    monkeypatch.setattr(retention, "line", noting)
    await archiver.run(TODAY)
    assert threads
    assert threading.main_thread() not in threads


async def test_a_month_that_was_tampered_with_stays(log: AuditLog, archiver: Archiver, tamper: Tamper) -> None:
    tamper("update audit_log set ip = 'other' where seq = 5")
    with pytest.raises(Broken, match="row 5 was changed"):
        await archiver.run(TODAY)
    assert await first_seq(log) == 4


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("delete from audit_archives where first_seq = 1", "rows 1 to 3 are missing"),
        ("delete from audit_archives", "rows 1 to 6 are missing"),
        ("update audit_archives set last_seq = 7 where first_seq = 4", "the record of the archive"),
    ],
)
async def test_records_of_archives(
    log: AuditLog, archiver: Archiver, tamper: Tamper, statement: str, expected: str
) -> None:
    await archiver.run(TODAY)
    tamper(statement)
    assert (await problems(log))[0].startswith(expected)


async def test_a_forged_record_opens_no_file(log: AuditLog, archiver: Archiver, tamper: Tamper, tmp_path: Path) -> None:
    await archiver.run(TODAY)
    (tmp_path / "forged").write_bytes(b"no archive")
    digest = digest_of(tmp_path / "forged").hex()
    tamper(f"update audit_archives set file = 'forged', file_sha256 = '\\x{digest}' where first_seq = 1")
    assert await problems(log, tmp_path) == ["the record of the archive forged was changed"]


async def test_a_changed_file_is_found(log: AuditLog, archiver: Archiver, tmp_path: Path) -> None:
    await archiver.run(TODAY)
    file = tmp_path / "audit-2026-01-1-3.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert await problems(log, tmp_path) == ["the file audit-2026-01-1-3.jsonl.gz was changed"]


async def test_months_without_entries_are_dropped(log: AuditLog, archiver: Archiver) -> None:
    await make_room(log.db, date(2026, 6, 1))
    await replace(archiver, months=0).run(date(2026, 8, 1))
    async with log.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await store.partitions(tx) == [date(2026, 8, 1)]


async def test_there_is_room_for_the_months_to_come(log: AuditLog) -> None:
    await make_room(log.db, date(2026, 11, 30))
    await make_room(log.db, date(2026, 11, 30))
    async with log.db.transaction(EVERY_ORGANIZATION) as tx:
        assert (await store.partitions(tx))[-3:] == [date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1)]
