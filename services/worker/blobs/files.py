"""A blob on the worker's disk. What is there is the whole truth, so processes that share the directory agree.

    sha256-<hex>            the blob; appears complete and verified
    sha256-<hex>.chunks     SHA-256 of each of its chunks; its time is that of the last verification
    sha256-<hex>.partial    what has arrived so far, at its full length, with holes
    sha256-<hex>.arrived    one byte for each chunk of the partial: 1 when it is there
    sha256-<hex>.damaged    its time is when the blob was last found damaged
    sha256-<hex>.lock       held by the process that changes any of these

Everything here blocks and may raise ``OSError``.
"""

import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from libs.common.contracts.registry import CachedBlob
from libs.common.errors import InvalidRequest

CHUNK_BYTES: Final = 4 << 20
"""What is requested, verified and repaired as one."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_HASH_BYTES: Final = 32


class Damaged(Exception):
    """A chunk is no longer what it was when the blob was verified; its index."""

    def __init__(self, index: int) -> None:
        super().__init__(f"chunk {index} is damaged")
        self.index = index


@dataclass(frozen=True)
class BlobFiles:
    digest: str
    blob: Path

    @classmethod
    def of(cls, directory: Path, digest: str) -> "BlobFiles":
        """Raises ``InvalidRequest``: nothing but a digest becomes a path."""
        if not _DIGEST.fullmatch(digest):
            raise InvalidRequest("invalid digest format")
        return cls(digest, directory / digest.replace(":", "-"))

    @property
    def chunks(self) -> Path:
        return self.blob.with_suffix(".chunks")

    @property
    def partial(self) -> Path:
        return self.blob.with_suffix(".partial")

    @property
    def arrived(self) -> Path:
        return self.blob.with_suffix(".arrived")

    @property
    def damaged(self) -> Path:
        return self.blob.with_suffix(".damaged")

    @property
    def lock(self) -> Path:
        return self.blob.with_suffix(".lock")

    def read(self, start: int, length: int) -> bytes:
        """A part of the blob, out of chunks that were all checked as they were read.

        Raises ``FileNotFoundError`` if the blob is not there, verified; ``Damaged``.
        """
        first, last = start // CHUNK_BYTES, (start + length - 1) // CHUNK_BYTES
        with self.blob.open("rb") as blob, self.chunks.open("rb") as hashes:
            read = b"".join(_read_chunk(blob.fileno(), hashes.fileno(), index) for index in range(first, last + 1))
        return read[start - first * CHUNK_BYTES :][:length]

    def damaged_chunks(self) -> list[int]:
        """By the chunks' own hashes. Raises ``FileNotFoundError`` without blob or hashes."""
        found = []
        with self.blob.open("rb") as blob, self.chunks.open("rb") as hashes:
            for index in range(chunk_count(self.blob.stat().st_size)):
                try:
                    _read_chunk(blob.fileno(), hashes.fileno(), index)
                except Damaged:
                    found.append(index)
        return found

    def check(self) -> bool:
        """Whether the blob is there and good. What is bad of one that is there has to be fetched again."""
        if not self.blob.exists():
            return False
        if self._has_hashes():
            bad: Collection[int] = self.damaged_chunks()
        else:
            digest, hashes = hash_file(self.blob)
            bad = () if digest == self.digest else range(chunk_count(self.blob.stat().st_size))
            if not bad:
                self.chunks.write_bytes(hashes)
        if bad:
            self.break_up(bad)
            return False
        self.mark_verified()
        return True

    def mark_verified(self) -> None:
        """Raises ``FileNotFoundError`` if the blob is no longer there, verified."""
        os.utime(self.chunks)

    def _has_hashes(self) -> bool:
        try:
            return self.chunks.stat().st_size == chunk_count(self.blob.stat().st_size) * _HASH_BYTES
        except FileNotFoundError:
            return False

    def break_up(self, bad: Collection[int]) -> None:
        """A damaged blob becomes a partial one that misses its bad chunks.

        A file that others link to is not ours to write into: all of it is fetched again.
        """
        self.damaged.touch()
        self.chunks.unlink(missing_ok=True)
        state = self.blob.stat()
        count = chunk_count(state.st_size)
        if len(bad) == count or state.st_nlink > 1:
            self.blob.unlink()
            return
        self.arrived.write_bytes(bytes(index not in bad for index in range(count)))
        self.blob.replace(self.partial)

    def prepare(self, size: int) -> bytearray:
        """A partial to write into, and which of its chunks are there; what an earlier process fetched is kept."""
        count = chunk_count(size)
        if self._can_resume(size):
            return bytearray(self.arrived.read_bytes())
        self.discard_partial()
        self.arrived.write_bytes(bytes(count))
        with self.partial.open("wb") as file:
            file.truncate(size)
        return bytearray(count)

    def _can_resume(self, size: int) -> bool:
        """Not into a file that others link to: it may be the registry's."""
        if not (self.partial.exists() and self.arrived.exists()):
            return False
        state = self.partial.stat()
        return state.st_size == size and state.st_nlink == 1 and self.arrived.stat().st_size == chunk_count(size)

    def store(self, index: int, chunk: bytes) -> None:
        """Into the partial. The mark comes after the bytes, so a process that is killed leaves no false one."""
        _write_at(self.partial, chunk, index * CHUNK_BYTES)
        _write_at(self.arrived, b"\1", index)

    def link(self, source: Path) -> bool:
        """Share a file of this digest; no bytes are copied. False if that cannot be, or if it is not what it says."""
        if not self.arrived.exists():
            self.partial.unlink(missing_ok=True)  # a link that was never verified: its process was killed
        try:
            self.partial.hardlink_to(source)
        except OSError:  # another disk, another machine, not ours to link, or partly fetched already
            return False
        return self.complete()

    def complete(self) -> bool:
        """Make the partial the blob. False, and nothing is left of it, if its bytes are not those of the digest."""
        digest, hashes = hash_file(self.partial)
        if digest != self.digest:
            self.discard_partial()
            return False
        self.chunks.write_bytes(hashes)
        self.partial.replace(self.blob)
        self.arrived.unlink(missing_ok=True)
        return True

    def discard_partial(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.arrived.unlink(missing_ok=True)

    def remove(self) -> None:
        self.blob.unlink(missing_ok=True)
        self.chunks.unlink(missing_ok=True)
        self.damaged.unlink(missing_ok=True)
        self.discard_partial()

    def describe(self) -> CachedBlob | None:
        """None if there is nothing worth telling: a blob without hashes has yet to be verified."""
        try:
            return self._describe()
        except FileNotFoundError:  # another process is just changing it; the next look will tell
            return None

    def _describe(self) -> CachedBlob | None:
        damaged_at = _time(self.damaged)
        verified_at = _time(self.chunks)
        if verified_at is not None and self.blob.exists():
            size = self.blob.stat().st_size
            return CachedBlob(
                digest=self.digest, size=size, completed=size, verified_at=verified_at, damaged_at=damaged_at
            )
        if self.arrived.exists() and self.partial.exists():
            size, arrived = self.partial.stat().st_size, self.arrived.read_bytes()
            missing_from_last = len(arrived) * CHUNK_BYTES - size if arrived.endswith(b"\1") else 0
            completed = arrived.count(1) * CHUNK_BYTES - missing_from_last
            return CachedBlob(digest=self.digest, size=size, completed=completed, damaged_at=damaged_at)
        if damaged_at is not None:
            return CachedBlob(digest=self.digest, size=0, completed=0, damaged_at=damaged_at)
        return None


def chunk_count(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def hash_file(path: Path) -> tuple[str, bytes]:
    """The file's digest, and the hashes of its chunks one after another. The file is safe on the disk then."""
    whole, chunks = hashlib.sha256(), bytearray()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            whole.update(chunk)
            chunks += hashlib.sha256(chunk).digest()
    return f"sha256:{whole.hexdigest()}", bytes(chunks)


def _read_chunk(blob: int, hashes: int, index: int) -> bytes:
    try:
        chunk = os.pread(blob, CHUNK_BYTES, index * CHUNK_BYTES)
    except OSError as error:  # the disk cannot read it
        raise Damaged(index) from error
    if hashlib.sha256(chunk).digest() != os.pread(hashes, _HASH_BYTES, index * _HASH_BYTES):
        raise Damaged(index)
    return chunk


def _write_at(path: Path, content: bytes, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def _time(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def digests(directory: Path) -> list[str]:
    """Of all blobs that have any file here."""
    names = {path.name.partition(".")[0].replace("-", ":", 1) for path in directory.glob("sha256-*")}
    return sorted(name for name in names if _DIGEST.fullmatch(name))


def removable(directory: Path) -> list[str]:
    """Blobs whose deletion gives space back: not those whose file is also somebody else's."""
    return [digest for digest in digests(directory) if _links(BlobFiles.of(directory, digest).blob) == 1]


def _links(path: Path) -> int:
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


def describe_all(directory: Path) -> tuple[CachedBlob, ...]:
    described = (BlobFiles.of(directory, digest).describe() for digest in digests(directory))
    return tuple(blob for blob in described if blob is not None)
