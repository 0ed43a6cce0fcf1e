"""Reading the whole chain, archives first, and telling where it is broken."""

import gzip
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from libs.common.database import EVERY_ORGANIZATION, Database
from services.auth.audit import lines
from services.auth.audit.chain import START, Chain
from services.auth.store import audit as store
from services.auth.store.audit import Archive, Entry, Head


class Walk:
    """Along the chain, entry by entry. Of neighbours with the same trouble only the first is told."""

    def __init__(self, chain: Chain, seq: int = 0, last: bytes = START) -> None:
        """``seq`` and ``last``: number and hash of the row before the first."""
        self._chain = chain
        self.seq = seq
        self.hash = last
        self._in_changed = False

    def take(self, entry: Entry) -> Iterator[str]:
        if entry.seq < 1:
            yield f"row {entry.seq} was never written by auth"
            return
        if entry.seq <= self.seq:
            yield f"row {entry.seq} comes again, after row {self.seq}"
            return
        if entry.seq > self.seq + 1:
            yield _missing(self.seq + 1, entry.seq - 1)
        changed = not self._chain.fits(entry)
        if changed and not self._in_changed:
            yield f"row {entry.seq} was changed, or never written by auth"
        elif not changed and not self._in_changed and entry.seq == self.seq + 1 and entry.previous != self.hash:
            yield f"row {entry.seq} was not written after the row before it"
        self._in_changed = changed
        self.seq, self.hash = entry.seq, entry.hash

    def skip(self, archive: Archive) -> Iterator[str]:
        """To the end of what was archived."""
        if not self._chain.is_ours(archive):
            yield f"the record of the archive {archive.file} was changed"
        if archive.first_seq != self.seq + 1:
            yield _missing(self.seq + 1, archive.first_seq - 1)
        self.seq, self.hash, self._in_changed = archive.last_seq, archive.last_hash, False

    def end(self, head: Head | None) -> Iterator[str]:
        if head is None or not self._chain.is_ours(head):
            yield "the head of the log was changed or removed: its newest rows may be missing"
        elif head.seq > self.seq:
            yield _missing(self.seq + 1, head.seq)
        elif head.seq < self.seq:
            yield f"rows {head.seq + 1} to {self.seq} come after the end of the log"
        elif head.hash != self.hash:
            yield f"row {self.seq} is not the one the log ends with"


async def verify(
    db: Database, chain: Chain, archive_dir: Path | None = None, known: tuple[int, bytes] | None = None
) -> AsyncIterator[str]:
    """Everything that is wrong. Appending goes on meanwhile.

    ``known``: a number and the hash of a row, as they were noted elsewhere; nobody who can only change this database
    can bring it back to an earlier state then.
    """
    walk = Walk(chain)
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        head = await store.head(tx)
        for archive in await store.archives(tx):
            for problem in _archive(walk, chain, archive, archive_dir):
                yield problem
        async for entry in store.entries(tx, to=head.seq if head else None):
            for problem in _and_known(walk, entry, known):
                yield problem
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        head = await store.lock_head(tx)
        async for entry in store.entries(tx, after=walk.seq):
            for problem in _and_known(walk, entry, known):
                yield problem
        for problem in walk.end(head):
            yield problem
    if known is not None and known[0] > walk.seq:
        yield _missing(walk.seq + 1, known[0])


def _and_known(walk: Walk, entry: Entry, known: tuple[int, bytes] | None) -> Iterator[str]:
    yield from walk.take(entry)
    if known is not None and entry.seq == known[0] and entry.hash != known[1]:
        yield f"row {entry.seq} is not the one that was noted"


def _archive(walk: Walk, chain: Chain, archive: Archive, archive_dir: Path | None) -> Iterator[str]:
    file = archive_dir / archive.file if archive_dir else None
    # Of a record that is not ours, neither the name nor the file is to be trusted.
    if file is not None and chain.is_ours(archive) and file.exists():
        if digest_of(file) != archive.file_sha256:
            yield f"the file {archive.file} was changed"
        else:
            inside = Walk(chain, walk.seq, walk.hash)
            for entry in read_archive(file):
                yield from inside.take(entry)
            if (inside.seq, inside.hash) != (archive.last_seq, archive.last_hash):
                yield f"the file {archive.file} does not end where its record says"
    yield from walk.skip(archive)


def read_archive(file: Path) -> Iterator[Entry]:
    with gzip.open(file, "rt", encoding="utf-8") as text:
        yield from map(lines.parse, text)


def digest_of(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _missing(first: int, last: int) -> str:
    return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
