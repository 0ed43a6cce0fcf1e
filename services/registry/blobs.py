"""Content-addressed files: ``<data>/blobs/sha256-<64 hex>``, as Ollama lays them out.

A blob appears under its name only when it is complete, verified and safe on the disk.
"""

import asyncio
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Blob:
    digest: str
    """``sha256:<64 hex>``"""

    size: int


def normalised(digest: str) -> str | None:
    """``sha256:<64 hex>`` from what clients write (also ``sha256-``, also upper case), or None."""
    canonical = digest.lower().replace("sha256-", "sha256:", 1)
    return canonical if DIGEST.fullmatch(canonical) else None


class BlobStore:
    """All methods that touch bytes run in a thread and may raise ``OSError``."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = (data_dir / "blobs").absolute()

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. ``digest`` must be normalised: nothing else becomes a path."""
        assert DIGEST.fullmatch(digest)
        return self._directory / digest.replace(":", "-")

    async def find(self, digest: str) -> Blob | None:
        return await asyncio.to_thread(self._find, digest)

    async def add_file(self, source: Path) -> Blob:
        """A hard link where the disk allows it, a copy otherwise."""
        return await asyncio.to_thread(self._add, lambda target: _link_or_copy(source, target))

    async def add_bytes(self, content: bytes) -> Blob:
        return await asyncio.to_thread(self._add, lambda target: target.write_bytes(content))

    async def holds(self, digest: str, source: Path) -> bool:
        """Whether this blob is there and is what ``source`` is. Quick for hard links, else as quick as hashing."""
        return await asyncio.to_thread(self._holds, digest, source)

    def _find(self, digest: str) -> Blob | None:
        try:
            return Blob(digest, self.path(digest).stat().st_size)
        except FileNotFoundError:
            return None

    def _holds(self, digest: str, source: Path) -> bool:
        blob = self.path(digest)
        if not blob.is_file():
            return False
        return blob.samefile(source) or _sha256(source) == digest

    def _add(self, write: Callable[[Path], object]) -> Blob:
        self._directory.mkdir(parents=True, exist_ok=True)
        partial = self._directory / f".{secrets.token_hex(8)}-partial"
        try:
            write(partial)
            sync(partial)
            blob = Blob(_sha256(partial), partial.stat().st_size)
            partial.replace(self.path(blob.digest))
        finally:
            # Renaming a link onto another link to the same file does nothing and leaves both.
            partial.unlink(missing_ok=True)
        sync(self._directory)
        return blob


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
