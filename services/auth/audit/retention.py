"""Whole months that are old enough leave the database: written to a file, checked, and only then dropped.

Killed anywhere in between, the next run begins the month again and writes the same file. The record of the archive and
the drop are one transaction. Replicas do it one at a time.
"""

import asyncio
import gzip
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Final

import structlog

from libs.common.database import EVERY_ORGANIZATION, Database
from services.auth.audit.chain import START, Chain
from services.auth.audit.lines import line
from services.auth.audit.verify import Walk, digest_of, read_archive
from services.auth.store import audit as store
from services.auth.store.audit import Archive, Entry, Span

log = structlog.get_logger(__name__)

COMPRESSION: Final = 6
"""9, gzip's own choice, takes several times as long for hardly less."""


class Broken(Exception):
    """What would be archived is not as auth wrote it: it stays, for somebody to look at."""


@dataclass(frozen=True)
class Archiver:
    db: Database
    chain: Chain
    directory: Path
    months: int
    """That stay in the database, besides the current one."""

    async def run(self, today: date) -> None:
        """Nothing while another replica is at it.

        Raises ``Unavailable``, ``OSError`` if the directory cannot be written to, and ``Broken``.
        """
        async with self.db.transaction(EVERY_ORGANIZATION) as holding:
            if not await store.hold_archiving(holding):
                return
            async with self.db.transaction(EVERY_ORGANIZATION) as tx:
                months = await store.partitions(tx)
            for month in months:
                if month < months_before(today, self.months):
                    await self.archive(month)

    async def archive(self, month: date) -> None:
        """The oldest one."""
        span, start = await self._look(month)
        if span is None:
            await self.drop(month, None, None)
            return
        file = self.directory / f"audit-{month:%Y-%m}-{span.first_seq}-{span.last_seq}.jsonl.gz"
        last_hash = await self._write(file, start, span)
        digest = await asyncio.to_thread(digest_of, file)
        archive = Archive(span.first_seq, span.last_seq, last_hash, file.name, digest, datetime.now(UTC))
        await self.drop(month, span, self.chain.signed(archive))

    async def drop(self, month: date, span: Span | None, archive: Archive | None) -> None:
        """Nothing if the month is gone, or holds something else than this by now."""
        async with self.db.transaction(EVERY_ORGANIZATION) as tx:
            await store.lock_for_dropping(tx)
            if month not in await store.partitions(tx) or await store.span_of(tx, month) != span:
                return
            if archive is not None:
                await store.insert_archive(tx, archive)
            await store.drop_partition(tx, month)
        log.info("a month of the audit log left the database", month=str(month), file=archive.file if archive else None)

    async def _look(self, month: date) -> tuple[Span | None, tuple[int, bytes]]:
        """What the month holds, and what comes before it: number and hash."""
        async with self.db.transaction(EVERY_ORGANIZATION) as tx:
            archives = await store.archives(tx)
            before = (archives[-1].last_seq, archives[-1].last_hash) if archives else (0, START)
            return await store.span_of(tx, month), before

    async def _write(self, file: Path, start: tuple[int, bytes], span: Span) -> bytes:
        """The last hash. Only what is whole takes the name, on which there may be a good file. Raises ``Broken``."""
        with NamedTemporaryFile(dir=self.directory, prefix=file.name, suffix=".part", delete=False) as part:
            try:
                # Without a name and a time in it, whoever writes the same entries writes the same file.
                with gzip.GzipFile(
                    filename="", mode="wb", compresslevel=COMPRESSION, fileobj=part, mtime=0
                ) as compressed:
                    async with self.db.transaction(EVERY_ORGANIZATION) as tx:
                        async for chunk in _chunks(store.entries(tx, after=start[0], to=span.last_seq)):
                            await asyncio.to_thread(_compress, chunk, compressed)
                await asyncio.to_thread(_sync, part)
                last_hash = await asyncio.to_thread(self._check, Path(part.name), start, span)
                await asyncio.to_thread(_keep, part, file)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part.name)  # noqa: PTH108  of no consequence
        return last_hash

    def _check(self, file: Path, start: tuple[int, bytes], span: Span) -> bytes:
        """The last hash of the file, read again. Raises ``Broken``."""
        walk = Walk(self.chain, *start)
        for entry in read_archive(file):
            _none(walk.take(entry))
        if walk.seq != span.last_seq:
            raise Broken(f"row {walk.seq} of {span.last_seq} is the last one of the month")
        return walk.hash


async def _chunks(entries: AsyncIterator[Entry]) -> AsyncIterator[list[Entry]]:
    """As many at a time as are fetched."""
    chunk: list[Entry] = []
    async for entry in entries:
        chunk.append(entry)
        if len(chunk) == store.FETCH:
            yield chunk
            chunk = []
    yield chunk


def _compress(entries: Iterable[Entry], file: gzip.GzipFile) -> None:
    for entry in entries:
        file.write(line(entry).encode())


def _sync(part: "IO[bytes]") -> None:
    part.flush()
    os.fsync(part.fileno())


def _keep(part: "IO[bytes]", file: Path) -> None:
    """Once it has its name it is on the disk, whole."""
    Path(part.name).replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _none(problems: Iterable[str]) -> None:
    for problem in problems:
        raise Broken(problem)


def months_before(day: date, months: int) -> date:
    """The first day of the month that many months before."""
    years, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(years, month + 1, 1)
