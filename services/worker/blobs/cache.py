"""The cache: a blob is fetched once however many wait for it, verified, and repaired when it is found damaged."""

import asyncio
import errno
import fcntl
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import httpx
import structlog
from prometheus_client import Counter

from libs.common.bus.base import Bus
from libs.common.contracts.registry import BlobLocation, CachedBlob, LocateBlob
from libs.common.errors import ModelLoadFailed, NotFound, ServiceError, Unavailable
from libs.common.single_flight import SingleFlight
from services.worker.blobs import files
from services.worker.blobs.download import Download, FetchFailed
from services.worker.blobs.files import CHUNK_BYTES, BlobFiles, Damaged, chunk_count
from services.worker.blobs.throttle import Throttle

log = structlog.get_logger(__name__)

_damaged = Counter("worker_blobs_damaged_total", "Blobs found damaged on the disk")

PAUSES_SECONDS: Final = (1.0, 2.0, 4.0)
"""Between attempts that bring nothing: a registry that restarts is back by then. The first one makes no pause."""

LOCK_POLL_SECONDS: Final = 0.1

InUse = Callable[[], Collection[str]]
"""Digests of blobs that must stay, asked anew each time: a fetch takes long."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

Fingerprint = tuple[Path, int, int]
"""Path, size and modification time in nanoseconds."""


class BlobCache:
    """``http`` has timeouts of its own. Without ``link``, a registry's file on the same disk is copied, not shared."""

    def __init__(
        self,
        directory: Path,
        node: str,
        bus: Bus,
        http: httpx.AsyncClient,
        registry_token: str,
        *,
        link: bool = True,
        pauses: Sequence[float] = PAUSES_SECONDS,
    ) -> None:
        self._directory = directory
        self._node = node
        self._bus = bus
        self._http = http
        self._registry_token = registry_token
        self._link = link
        self.changed = asyncio.Event()
        """Set when there is something new to report."""

        self._pauses = pauses
        self._fetches: SingleFlight[str, Path] = SingleFlight(on_done=self.changed.set)
        self._checks: SingleFlight[str, None] = SingleFlight(on_done=self.changed.set)
        self._verified: set[Fingerprint | None] = set()
        """Of files that this process has checked as a whole."""

        self._used_at: dict[str, float] = {}

    async def fetch(self, digest: str, in_use: InUse | None = None) -> Path:
        """The file of this blob, its digest checked. Raises ``ModelLoadFailed``, ``Unavailable`` without a registry.

        When the disk is full, blobs that are not ``in_use`` are deleted for it; None: it is not worth that.
        """
        blob = BlobFiles.of(self._directory, digest)
        self._used_at[digest] = time.monotonic()
        return await self._fetches.run(digest, partial(self._fetch, blob, in_use))

    async def read(self, digest: str, start: int, length: int) -> bytes:
        """A part of a blob, every chunk of it verified. Raises ``NotFound``, also when it turns out to be damaged."""
        blob = BlobFiles.of(self._directory, digest)
        try:
            return await asyncio.to_thread(blob.read, start, length)
        except FileNotFoundError:
            raise NotFound("blob not found") from None
        except Damaged:
            await self._break_up(blob)
            raise NotFound("blob not found") from None

    async def size(self, digest: str) -> int:
        """Raises ``NotFound``."""
        blob = BlobFiles.of(self._directory, digest)
        try:
            return (await asyncio.to_thread(blob.blob.stat)).st_size
        except FileNotFoundError:
            raise NotFound("blob not found") from None

    async def describe(self) -> tuple[CachedBlob, ...]:
        return await asyncio.to_thread(files.describe_all, self._directory)

    async def drop(self, digest: str) -> None:
        """Delete it, unless somebody is just fetching it."""
        blob = BlobFiles.of(self._directory, digest)
        if digest in self._fetches:
            return
        async with self._locked(blob):
            await asyncio.to_thread(blob.remove)
        log.info("a blob was deleted", digest=digest)
        self.changed.set()

    async def scrub(self, digest: str, throttle: Throttle) -> None:
        """Verify a blob, no faster than the throttle allows. A damaged one is broken up, to be fetched again.

        Raises ``FileNotFoundError`` if it is not there any more.
        """
        blob = BlobFiles.of(self._directory, digest)
        size = (await asyncio.to_thread(blob.blob.stat)).st_size
        for index in range(chunk_count(size)):
            await throttle.take(CHUNK_BYTES)
            try:
                await asyncio.to_thread(blob.read, index * CHUNK_BYTES, 1)
            except Damaged:
                await self._break_up(blob)
                return
        await asyncio.to_thread(blob.mark_verified)
        self.changed.set()

    async def aclose(self) -> None:
        await self._fetches.close()
        await self._checks.close()

    async def _fetch(self, blob: BlobFiles, in_use: InUse | None) -> Path:
        while True:
            try:
                await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
                async with self._locked(blob):
                    await self._store(blob)
                return blob.blob
            except OSError as error:
                if error.errno not in FULL:
                    raise ModelLoadFailed(f"the model could not be stored: {error}") from error
                if in_use is None or not await self._make_room(in_use):
                    await asyncio.to_thread(blob.discard_partial)
                    raise ModelLoadFailed(f"no space is left in {self._directory} for the model") from error

    async def _store(self, blob: BlobFiles) -> None:
        if not await asyncio.to_thread(self._is_good, blob):
            await self._obtain(blob)
            self._verified.add(await asyncio.to_thread(_fingerprint, blob.blob))

    async def _make_room(self, in_use: InUse) -> bool:
        """Delete the blob used longest ago of those that need not be kept. False if there is none."""
        stored = await asyncio.to_thread(files.removable, self._directory)
        keep = in_use()
        unused = [digest for digest in stored if digest not in keep and digest not in self._fetches]
        if not unused:
            return False
        await self.drop(min(unused, key=lambda digest: self._used_at.get(digest, 0.0)))
        return True

    async def _obtain(self, blob: BlobFiles) -> None:
        """Raises ``ModelLoadFailed``, ``Unavailable``, ``OSError``."""
        pauses = iter(self._pauses)
        use_peers = True
        while True:
            try:
                location = await self._locate(blob.digest)
                if self._link and await asyncio.to_thread(blob.link, Path(location.path)):
                    return
                if await self._download(blob, location, use_peers=use_peers):
                    return
                if not use_peers:
                    raise ModelLoadFailed(f"the registry's bytes are not those of their digest ({blob.digest})")
                log.warning("the bytes of a blob were wrong; only the registry is asked now", digest=blob.digest)
                use_peers = False
            except (FetchFailed, Unavailable) as error:
                log.warning("could not fetch a blob", digest=blob.digest, problem=str(error))
                if (pause := next(pauses, None)) is None:
                    raise _given_up(error) from error
                await asyncio.sleep(pause)

    async def _locate(self, digest: str) -> BlobLocation:
        try:
            return await self._bus.ask(LocateBlob(digest=digest, node=self._node))
        except NotFound as error:
            raise ModelLoadFailed(f"the registry does not have the model's weights ({digest})") from error

    async def _download(self, blob: BlobFiles, location: BlobLocation, *, use_peers: bool) -> bool:
        """Whether what came is the blob. Raises ``FetchFailed``."""
        while True:
            attempt = Download(self._http, blob, location, self._registry_token)
            try:
                await attempt.run(use_peers=use_peers)
                return await asyncio.to_thread(blob.complete)
            except FetchFailed:
                if not attempt.received:
                    raise
                location = await self._locate(blob.digest)  # a token may have expired, a peer gone

    def _is_good(self, blob: BlobFiles) -> bool:
        """Reads the whole file once in the life of this process, and again if it changed."""
        fingerprint = _fingerprint(blob.blob)
        if fingerprint is None:
            return False
        if fingerprint not in self._verified and not blob.check():
            _report_damage(blob)
            return False
        self._verified.add(fingerprint)
        return True

    async def _break_up(self, blob: BlobFiles) -> None:
        """Of all its chunks, for damage seldom comes alone. Goes on, with the lock, if the caller gives up."""
        await self._checks.run(blob.digest, partial(self._check_again, blob))

    async def _check_again(self, blob: BlobFiles) -> None:
        async with self._locked(blob):
            await asyncio.to_thread(_check, blob)

    @asynccontextmanager
    async def _locked(self, blob: BlobFiles) -> AsyncIterator[None]:
        """Between processes: the kernel lets go of the lock when its holder dies."""
        with blob.lock.open("ab") as file:
            while not _try_lock(file):  # noqa: ASYNC110  no event tells of another process's lock
                await asyncio.sleep(LOCK_POLL_SECONDS)
            yield


def _given_up(problem: FetchFailed | Unavailable) -> ServiceError:
    if isinstance(problem, Unavailable):
        return problem
    return ModelLoadFailed(f"the model's weights could not be fetched: {problem}")


def _fingerprint(path: Path) -> Fingerprint | None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return path, state.st_size, state.st_mtime_ns


def _check(blob: BlobFiles) -> None:
    """Another process may have done it meanwhile."""
    if blob.blob.exists() and not blob.check():
        _report_damage(blob)


def _report_damage(blob: BlobFiles) -> None:
    log.error("a blob is damaged on the disk and will be fetched again", digest=blob.digest)
    _damaged.inc()


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
