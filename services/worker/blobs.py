"""The worker's verified cache of blobs. Workers of one machine may share its directory."""

import asyncio
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import httpx
import structlog

from libs.common.bus.base import Bus
from libs.common.contracts.registry import BlobLocation, LocateBlob
from libs.common.errors import InvalidRequest, ModelLoadFailed, NotFound
from libs.common.single_flight import SingleFlight

log = structlog.get_logger(__name__)

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
ATTEMPTS: Final = 3
LOCK_POLL_SECONDS: Final = 0.1
CHUNK_BYTES: Final = 1 << 20


class BlobCache:
    """``http`` carries the credential of the registry's blobs; it has timeouts of its own."""

    def __init__(self, directory: Path, bus: Bus, http: httpx.AsyncClient) -> None:
        self._directory = directory
        self._bus = bus
        self._http = http
        self._fetches: SingleFlight[str, Path] = SingleFlight()
        self._verified: set[tuple[Path, int, int]] = set()
        """Path, size and modification time of files whose digest this process has checked."""

    async def fetch(self, digest: str) -> Path:
        """The file of this blob, its digest checked. Raises ``ModelLoadFailed``, ``Unavailable`` without a registry."""
        if not _DIGEST.fullmatch(digest):
            raise InvalidRequest("invalid digest format")
        return await self._fetches.run(digest, partial(self._fetch, digest))

    async def aclose(self) -> None:
        await self._fetches.close()

    async def _fetch(self, digest: str) -> Path:
        target = self._directory / digest.replace(":", "-")
        try:
            await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
            async with _locked(target.with_suffix(".lock")):
                if not await self._is_good(target, digest):
                    await self._obtain(target, digest)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                target.with_suffix(".partial").unlink(missing_ok=True)
                raise ModelLoadFailed(f"no space is left in {self._directory} for the model") from error
            raise ModelLoadFailed(f"the model could not be stored: {error}") from error
        return target

    async def _obtain(self, target: Path, digest: str) -> None:
        try:
            location = await self._bus.ask(LocateBlob(digest=digest))
        except NotFound as error:
            raise ModelLoadFailed(f"the registry does not have the model's weights ({digest})") from error
        if not await self._link(Path(location.path), target, digest):
            await self._download(location, target, digest)

    async def _link(self, source: Path, target: Path, digest: str) -> bool:
        """Share the registry's own file where it is on this disk; no bytes are copied."""
        try:
            await asyncio.to_thread(os.link, source, target)
        except OSError:  # another disk, another machine, or not ours to link
            return False
        return await self._is_good(target, digest)

    async def _download(self, location: BlobLocation, target: Path, digest: str) -> None:
        partial_file = target.with_suffix(".partial")
        problem = ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._get(location, partial_file)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if await self._is_good(partial_file, digest):
                    await asyncio.to_thread(partial_file.replace, target)
                    return
                problem = "the bytes are not those of its digest"
            log.warning("could not fetch a blob", digest=digest, attempt=attempt, problem=problem)
        raise ModelLoadFailed(f"the model's weights could not be fetched: {problem}")

    async def _get(self, location: BlobLocation, partial_file: Path) -> None:
        """Append what is missing. Raises ``httpx.HTTPError``; what has arrived stays for the next attempt."""
        offset = await asyncio.to_thread(_size, partial_file)
        if offset >= location.size:
            return  # complete, or wrong: its digest will tell
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={offset}-"}
        async with self._http.stream("GET", location.url, headers=headers) as response:
            response.raise_for_status()
            with partial_file.open("ab" if response.status_code == 206 else "wb") as file:
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    await asyncio.to_thread(file.write, chunk)

    async def _is_good(self, path: Path, digest: str) -> bool:
        """Whether the file is there and is what its digest says; one that is not is removed."""
        return await asyncio.to_thread(self._verify_or_remove, path, digest)

    def _verify_or_remove(self, path: Path, digest: str) -> bool:
        if not path.exists():
            return False
        state = path.stat()
        known = (path, state.st_size, state.st_mtime_ns)
        if known not in self._verified and _sha256(path) != digest:
            log.warning("a corrupt file was removed", path=str(path))
            path.unlink()
            return False
        self._verified.add(known)
        return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    """Reads the file and sees it safely on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Between processes: the kernel lets go of the lock when its holder dies."""
    with path.open("ab") as file:
        while not _try_lock(file):  # noqa: ASYNC110  no event tells of another process's lock
            await asyncio.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
