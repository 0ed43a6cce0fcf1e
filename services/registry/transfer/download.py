"""Fetch one blob from another registry: parts in parallel, straight to their place on the disk.

Who holds the lock of the partial file fetches. The kernel lets go of it when its process dies, and the next one, here
or in another replica, goes on from what is there.
"""

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import aiohttp

from libs.common.errors import InvalidRequest, ServiceError, StorageFull
from services.registry.blobs import Blob, BlobStore, full_disks_explained
from services.registry.settings import Settings
from services.registry.transfer import parts
from services.registry.transfer.parts import Part
from services.registry.transfer.remote import Interrupted, Remote, chunks, retrying

LOCK_POLL_SECONDS: Final = 0.2
SAVE_SECONDS: Final = 0.5
SAVE_BYTES: Final = 1 << 23
"""What a killed process has to fetch again, at most, beside what is on its way."""

WORTHWHILE_BYTES: Final = 1 << 16
"""An attempt that brought this much was no failure, however it ended."""

STATE: Final = 0
"""The first of a blob's numbered partial paths is where its parts are remembered."""

T = TypeVar("T")


@dataclass(frozen=True)
class Owner:
    """The organization a blob is fetched for, and how to tell whether it has it already: bytes that are here because of
    others are no reason not to fetch them."""

    organization: str
    find: Callable[[], Awaitable[Blob | None]]


class Download:
    """``on_progress`` gets the number of bytes that are there, each time there are more."""

    def __init__(
        self,
        store: BlobStore,
        settings: Settings,
        streams: asyncio.Semaphore,
        *,
        remote: Remote,
        blob: Blob,
        on_progress: Callable[[int], None],
        owner: Owner,
    ) -> None:
        self._store = store
        self._settings = settings
        self._streams = streams
        self._remote = remote
        self._blob = blob
        self._url = remote.base / "blobs" / blob.digest
        self._on_progress = on_progress
        self._owner = owner
        self._path = store.partial_path(blob.digest, owner=owner.organization)
        self._state = store.partial_path(blob.digest, STATE, owner.organization)
        self._parts: list[Part] = []
        self._saving = asyncio.Lock()
        self._save_at = 0.0
        self._saved = 0

    async def run(self) -> None:
        """Returns when the blob is in the store. Raises ``NotFound``, ``StorageFull``, ``ServiceError``, ``OSError``.

        What has come stays for the next time, unless its bytes turn out to be wrong.
        """
        with await self._lock() as file:
            if await self._owner.find() is not None:
                await asyncio.to_thread(self._path.unlink)
                return
            self._parts = await asyncio.to_thread(self._prepare, file)
            self._on_progress(parts.completed(self._parts))
            await self._fetch_all()
            await _to_its_end(self._adopt())

    async def _lock(self) -> BinaryIO:
        """Meanwhile the progress of who has it is ours."""
        while (file := await asyncio.to_thread(_try_lock, self._path)) is None:
            known = await asyncio.to_thread(parts.load, self._state, self._blob.size)
            if known is not None:
                self._on_progress(parts.completed(known))
            await asyncio.sleep(LOCK_POLL_SECONDS)
        return file

    def _prepare(self, file: BinaryIO) -> list[Part]:
        """What an earlier download left, or a new plan and a file of full length without content."""
        total, settings = self._blob.size, self._settings
        whole = file.seek(0, os.SEEK_END) == total
        planned = (parts.load(self._state, total) if whole else None) or []
        if shutil.disk_usage(self._path.parent).free < total - parts.completed(planned):
            raise StorageFull
        if not planned:
            planned = parts.plan(total, settings.transfer_streams, settings.part_min_bytes, settings.part_max_bytes)
        with full_disks_explained():
            file.truncate(total)
            parts.save(self._state, planned)
        return planned

    async def _fetch_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for part in self._parts:
                    group.create_task(self._fetch(part))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _fetch(self, part: Part) -> None:
        while part.completed < part.size:
            async for attempt in retrying():
                with attempt:
                    await self._fetch_some(part)

    async def _fetch_some(self, part: Part) -> None:
        before = part.completed
        try:
            async with self._streams:
                await self._stream(part)
        except Interrupted:
            if part.completed - before < WORTHWHILE_BYTES:
                raise

    async def _stream(self, part: Part) -> None:
        wanted = f"bytes={part.offset + part.completed}-{part.offset + part.size - 1}"
        async with self._remote.request("GET", self._url, headers={"Range": wanted}) as response:
            self._begin(part, response)
            # Closing waits for a write that is still running in its thread.
            with self._path.open("r+b") as file:
                file.seek(part.offset + part.completed)
                async for chunk in chunks(response):
                    if part.completed + len(chunk) > part.size:
                        raise ServiceError(f"{self._url.host} sent more than was asked for")
                    await asyncio.to_thread(_write, file, chunk)
                    part.completed += len(chunk)
                    await self._progressed()
        if part.completed < part.size:
            raise Interrupted

    def _begin(self, part: Part, response: aiohttp.ClientResponse) -> None:
        """Raises ``ServiceError`` if these are other bytes than those that were asked for."""
        start = f"bytes {part.offset + part.completed}-"
        if response.status == 206 and response.headers.get("Content-Range", "").startswith(start):
            return
        if response.status != 200 or part.size != self._blob.size:
            raise ServiceError(f"{self._url.host} does not serve ranges of bytes")
        part.completed = 0

    async def _progressed(self) -> None:
        completed = parts.completed(self._parts)
        self._on_progress(completed)
        if completed - self._saved >= SAVE_BYTES or time.monotonic() >= self._save_at:
            # Before it is done, so that no other part does it, too.
            self._saved, self._save_at = completed, time.monotonic() + SAVE_SECONDS
            async with self._saving:
                await _to_its_end(asyncio.to_thread(self._save))

    def _save(self) -> None:
        with full_disks_explained():
            parts.save(self._state, self._parts)

    async def _adopt(self) -> None:
        try:
            await self._store.adopt(self._path, self._blob.digest)
        except InvalidRequest as mismatch:
            raise ServiceError(f"digest mismatch, file must be downloaded again: {mismatch.message}") from None
        finally:
            await asyncio.to_thread(self._state.unlink, missing_ok=True)


def _try_lock(path: Path) -> BinaryIO | None:
    """The file, made if need be and locked until it is closed; None while somebody else has it."""
    path.touch()
    file = path.open("r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between our opening and locking it, its holder may have finished and moved it away.
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _write(file: BinaryIO, chunk: bytes) -> None:
    with full_disks_explained():
        file.write(chunk)
        file.flush()


async def _to_its_end(work: Awaitable[T]) -> T:
    """A thread cannot be cancelled, and the lock must not be given up before it is done."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
