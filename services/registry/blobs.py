"""Content-addressed files: ``<data>/blobs/sha256-<64 hex>``, as Ollama lays them out.

A blob appears under its name only when it is complete, verified and safe on the disk. What is not complete yet has
``-partial`` in its name.
"""

import asyncio
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from libs.common.contracts.permissions import OPERATING_ORGANIZATION
from libs.common.errors import InvalidRequest, StorageFull

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

BATCH_BYTES = 1 << 20
"""What arrives is gathered to about this much, so that going to a thread with it is worth it."""


VERIFIED_AT_ONCE = 2
"""Large files. Each takes a thread for minutes, and there are few more on a small machine."""


@dataclass(frozen=True)
class Blob:
    digest: str
    """``sha256:<64 hex>``"""

    size: int


def normalised(digest: str) -> str | None:
    """``sha256:<64 hex>`` from what clients write (also ``sha256-``, also upper case), or None."""
    canonical = digest.lower().replace("sha256-", "sha256:", 1)
    return canonical if DIGEST.fullmatch(canonical) else None


def checked(digest: str) -> str:
    """As ``normalised``. Raises ``InvalidRequest`` for what is no digest."""
    canonical = normalised(digest)
    if canonical is None:
        raise InvalidRequest("invalid digest format")
    return canonical


def digest_of(content: bytes) -> str:
    """``sha256:<64 hex>``"""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class BlobStore:
    """What touches bytes runs in a thread. It may raise ``StorageFull`` and ``OSError``.

    Digests must be normalised: nothing else becomes a path.
    """

    def __init__(self, data_dir: Path) -> None:
        self._directory = (data_dir / "blobs").absolute()
        self._verifying = asyncio.Semaphore(VERIFIED_AT_ONCE)

    def path(self, digest: str) -> Path:
        """Where the blob is or would be."""
        assert DIGEST.fullmatch(digest)
        return self._directory / digest.replace(":", "-")

    def partial_path(self, digest: str, part: int | None = None, owner: str = OPERATING_ORGANIZATION) -> Path:
        """For a download that can be resumed, and for what is known of its parts. Its directory is there.

        Each organization has its own: nobody gets what another has fetched of it.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        whose = "" if owner == OPERATING_ORGANIZATION else f"-{owner}"
        return self.path(digest).with_name(
            f"{self.path(digest).name}{whose}-partial{'' if part is None else f'-{part}'}"
        )

    async def find(self, digest: str) -> Blob | None:
        return await asyncio.to_thread(self._find, digest)

    async def renew(self, digest: str) -> Blob | None:
        """As ``find``, for somebody who is about to use it: a blob without a model is kept for a while from now."""
        return await asyncio.to_thread(self._renew, digest)

    async def add_file(self, source: Path) -> Blob:
        """A hard link where the disk allows it, a copy otherwise."""
        async with self._verifying:
            return await asyncio.to_thread(self._add, lambda target: _link_or_copy(source, target))

    async def add_bytes(self, content: bytes) -> Blob:
        return await asyncio.to_thread(self._add, lambda target: target.write_bytes(content))

    async def receive(self, digest: str, chunks: AsyncIterator[bytes]) -> Blob:
        """Store what arrives, in flat memory; hashed on its way. Of what ends early nothing stays.

        Raises ``InvalidRequest`` if the bytes are not those of the digest, and what ``chunks`` raises.
        """
        partial = self._new_partial()
        try:
            actual = await _write_and_hash(partial, chunks)
            _check(actual, digest)
            return await asyncio.to_thread(self._keep, partial, digest)
        finally:
            partial.unlink(missing_ok=True)

    async def adopt(self, path: Path, digest: str) -> Blob:
        """Move a finished file of the same disk in its place. It is gone afterwards, good or bad.

        Raises ``InvalidRequest`` if the bytes are not those of the digest.
        """
        async with self._verifying:
            return await asyncio.to_thread(self._adopt, path, digest)

    @asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """Where a program may write what will be a blob. What is there afterwards is removed."""
        path = await asyncio.to_thread(self._new_partial)
        try:
            yield path
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def holds(self, digest: str, source: Path) -> bool:
        """Whether this blob is there and is what ``source`` is. Quick for hard links, else as quick as hashing."""
        async with self._verifying:
            return await asyncio.to_thread(self._holds, digest, source)

    async def remove(self, digest: str, *, older_than: float = float("inf")) -> bool:
        """Whether it is gone: nothing happens if it was renewed after that time (seconds since the epoch)."""
        return await asyncio.to_thread(_remove_old, self.path(digest), older_than)

    async def list_old(self, seconds: float) -> list[str]:
        """The digests of blobs that were not renewed for so long."""
        return await asyncio.to_thread(self._list_old, time.time() - seconds)

    async def remove_partials(self, seconds: float) -> int:
        """How many files were removed that are not complete and were not written to for so long."""
        return await asyncio.to_thread(self._remove_partials, time.time() - seconds)

    def _list_old(self, before: float) -> list[str]:
        found = [normalised(path.name) for path in self._directory.glob("sha256-*") if _is_old(path, before)]
        return [digest for digest in found if digest is not None]

    def _remove_partials(self, before: float) -> int:
        return sum(_remove_old(path, before) for path in self._directory.glob("*-partial*"))

    def _find(self, digest: str) -> Blob | None:
        try:
            return Blob(digest, self.path(digest).stat().st_size)
        except FileNotFoundError:
            return None

    def _renew(self, digest: str) -> Blob | None:
        with suppress(FileNotFoundError):
            os.utime(self.path(digest))
        return self._find(digest)

    def _holds(self, digest: str, source: Path) -> bool:
        blob = self.path(digest)
        if not blob.is_file():
            return False
        return blob.samefile(source) or _sha256(source) == digest

    def _add(self, write: Callable[[Path], object]) -> Blob:
        partial = self._new_partial()
        try:
            with full_disks_explained():
                write(partial)
            return self._keep(partial, _sha256(partial))
        finally:
            # Renaming a link onto another link to the same file does nothing and leaves both.
            partial.unlink(missing_ok=True)

    def _adopt(self, path: Path, digest: str) -> Blob:
        try:
            _check(_sha256(path), digest)
            return self._keep(path, digest)
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, verified: Path, digest: str) -> Blob:
        blob = Blob(digest, verified.stat().st_size)
        with full_disks_explained():
            self._directory.mkdir(parents=True, exist_ok=True)
            sync(verified)
            verified.replace(self.path(digest))
            sync(self._directory)
        return blob

    def _new_partial(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory / f".{secrets.token_hex(8)}-partial"


async def gather(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of ``BATCH_BYTES`` or a little more."""
    batch = bytearray()
    async for chunk in chunks:
        batch += chunk
        if len(batch) >= BATCH_BYTES:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)


@contextmanager
def full_disks_explained() -> Iterator[None]:
    """Raises ``StorageFull`` where the disk or a quota is full."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull from error
        raise


def _is_old(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime <= before
    except FileNotFoundError:  # removed meanwhile, or a link that leads nowhere
        return False


def _remove_old(path: Path, older_than: float) -> bool:
    with suppress(FileNotFoundError):
        if path.stat().st_mtime > older_than:
            return False
        path.unlink()
    return True


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _write_and_hash(path: Path, chunks: AsyncIterator[bytes]) -> str:
    sha256 = hashlib.sha256()
    # Nothing is written here but in threads; closing waits for a write that is still running.
    with full_disks_explained(), path.open("xb") as file:

        def write(batch: bytes) -> None:
            file.write(batch)
            sha256.update(batch)

        async for batch in gather(chunks):
            await asyncio.to_thread(write, batch)
    return f"sha256:{sha256.hexdigest()}"


def _check(actual: str, expected: str) -> None:
    if actual != expected:
        raise InvalidRequest(f'digest mismatch, expected "{expected}", got "{actual}"')


def _link_or_copy(source: Path, target: Path) -> None:
    resolved = source.resolve(strict=True)
    try:
        target.hardlink_to(resolved)
    except OSError:
        # Another disk, a file system without links, or a file of another user.
        shutil.copyfile(resolved, target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
