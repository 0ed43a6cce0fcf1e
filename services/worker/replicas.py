"""This node's replicas: tell the registry what the cache has, do what it wants of it, verify it again now and then.

The registry decides, from what nodes report. Whatever is lost on the way, the next report makes it good.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

import structlog

from libs.common.bus.base import Bus
from libs.common.contracts.registry import CachedBlob, CachePlan, ReportCache
from libs.common.errors import ServiceError
from services.worker.blobs.cache import BlobCache
from services.worker.blobs.throttle import Throttle

log = structlog.get_logger(__name__)

REPORT_SECONDS: Final = 30.0
CLOSEST_SECONDS: Final = 1.0
"""Between two reports; also how often a running transfer tells how far it is."""

RETRY_SECONDS: Final = 30.0
LONGEST_RETRY_SECONDS: Final = 3600.0
"""After a fetch that failed; twice as long after each further failure, for it may have moved the whole blob."""


@dataclass(frozen=True)
class Reporter:
    """Who reports, and how its peers reach it."""

    node: str
    worker_id: str
    peer_url: str
    peer_key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)


@dataclass(frozen=True)
class _Failure:
    error: str
    pause_seconds: float
    retry_at: float

    @classmethod
    def after(cls, error: str, before: "_Failure | None") -> "_Failure":
        pause = min(before.pause_seconds * 2, LONGEST_RETRY_SECONDS) if before else RETRY_SECONDS
        return cls(error, pause, time.monotonic() + pause)


class Replicas:
    """``in_use``: digests of blobs that are in memory, which are not deleted under their model."""

    def __init__(self, reporter: Reporter, cache: BlobCache, bus: Bus, in_use: Callable[[], Collection[str]]) -> None:
        self._reporter = reporter
        self._cache = cache
        self._bus = bus
        self._in_use = in_use
        self._wanted: tuple[str, ...] = ()
        self._planned = asyncio.Event()
        self._fetching = False
        self._failures: dict[str, _Failure] = {}

    async def keep_reporting(self) -> None:
        """Background loop: at once when something changed, and now and then."""
        while True:
            self._cache.changed.clear()
            try:
                await self.report()
            except (ServiceError, OSError) as error:
                log.warning("could not report the cache", error=str(error))
                self._cache.changed.set()
            await asyncio.sleep(CLOSEST_SECONDS)
            try:
                await asyncio.wait_for(self._cache.changed.wait(), timeout=0 if self._fetching else REPORT_SECONDS)
            except TimeoutError:
                continue

    def wake(self) -> None:
        """Somebody asked for replicas: report at once, and try again what had failed."""
        self._failures.clear()
        self._cache.changed.set()

    async def report(self) -> None:
        """Raises ``Unavailable`` without a registry."""
        about = self._reporter
        plan = await self._bus.ask(
            ReportCache(
                node=about.node,
                worker_id=about.worker_id,
                peer_url=about.peer_url,
                peer_key=about.peer_key,
                blobs=self._with_errors(await self._cache.describe()),
            )
        )
        await self._follow(plan)

    def _with_errors(self, blobs: tuple[CachedBlob, ...]) -> tuple[CachedBlob, ...]:
        known = {blob.digest: blob for blob in blobs}
        for digest, failure in self._failures.items():
            blob = known.get(digest, CachedBlob(digest=digest, size=0, completed=0))
            known[digest] = blob.model_copy(update={"error": failure.error})
        return tuple(known.values())

    async def _follow(self, plan: CachePlan) -> None:
        self._wanted = plan.fetch
        self._failures = {digest: failure for digest, failure in self._failures.items() if digest in plan.fetch}
        self._planned.set()
        for digest in plan.drop:
            if digest not in self._in_use():  # each time: a model may be loaded while another blob is deleted
                await self._cache.drop(digest)

    async def keep_fetching(self) -> None:
        """Background loop: what the registry wants to be here, one after the other."""
        while True:
            await self._planned.wait()
            self._planned.clear()
            for digest in self._wanted:
                failure = self._failures.get(digest)
                if failure is None or failure.retry_at <= time.monotonic():
                    await self._fetch(digest)

    async def _fetch(self, digest: str) -> None:
        self._fetching = True
        self._cache.changed.set()
        try:
            await self._cache.fetch(digest)
        except ServiceError as error:
            log.warning("a replica could not be fetched", digest=digest, error=error.message)
            self._failures[digest] = _Failure.after(error.message, self._failures.get(digest))
        else:
            self._failures.pop(digest, None)
        finally:
            self._fetching = False
            self._cache.changed.set()

    async def keep_scrubbing(self, interval_seconds: float, bytes_per_second: int) -> None:
        """Background loop: verify each blob again when its last verification is this long ago."""
        throttle = Throttle(bytes_per_second)
        while True:
            try:
                verified_at, digest = await self._verified_longest_ago()
                due_in = verified_at + interval_seconds - time.time()
                if due_in > 0:
                    await asyncio.sleep(due_in)
                else:
                    await self._cache.scrub(digest, throttle)
            except FileNotFoundError:
                continue  # dropped, or broken up by somebody else, while it was verified
            except OSError as error:
                log.error("could not verify the cache", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _verified_longest_ago(self) -> tuple[float, str]:
        """When, and which blob. An empty cache counts as verified now."""
        blobs = await self._cache.describe()
        verified = [(blob.verified_at, blob.digest) for blob in blobs if blob.verified_at is not None]
        return min(verified, default=(time.time(), ""))
