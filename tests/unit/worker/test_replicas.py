"""One node that reports to a registry which answers with a plan written by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.registry import CachedBlob, CachePlan, ReportCache
from libs.common.errors import Unavailable
from services.worker.blobs.cache import BlobCache
from services.worker.replicas import Replicas, Reporter
from tests.fixtures.blob_sources import CONTENT, DIGEST, Sources


@dataclass
class Registry:
    """Locates blobs as ``sources`` do, and answers reports with ``plan``."""

    sources: Sources
    plan: CachePlan = field(default_factory=CachePlan)
    reports: "asyncio.Queue[ReportCache]" = field(default_factory=asyncio.Queue)

    async def ask(self, query: Any, *, timeout: float = 5.0) -> Any:
        if isinstance(query, ReportCache):
            self.reports.put_nowait(query)
            return self.plan
        return self.sources.locate(query)

    async def next_blobs(self) -> tuple[CachedBlob, ...]:
        return (await asyncio.wait_for(self.reports.get(), 10)).blobs


@pytest.fixture
def registry() -> Registry:
    return Registry(Sources())


@pytest.fixture
async def cache(registry: Registry, tmp_path: Path) -> AsyncIterator[BlobCache]:
    sources = registry.sources
    async with (
        sources.http() as http,
        aclosing(BlobCache(tmp_path, "n", cast(Bus, registry), http, sources.registry.token, pauses=())) as cache,
    ):
        yield cache


@pytest.fixture
def in_use() -> set[str]:
    return set()


@pytest.fixture
def replicas(registry: Registry, cache: BlobCache, in_use: set[str]) -> Replicas:
    return Replicas(Reporter("n", "w", "http://w"), cache, cast(Bus, registry), lambda: in_use)


@pytest.fixture
async def running(replicas: Replicas) -> AsyncIterator[Replicas]:
    loops = [asyncio.create_task(loop) for loop in (replicas.keep_reporting(), replicas.keep_fetching())]
    yield replicas
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


async def test_what_is_wanted_is_fetched_and_reported(registry: Registry, running: Replicas) -> None:
    registry.plan = CachePlan(fetch=(DIGEST,))
    assert await registry.next_blobs() == ()
    while not (blobs := await registry.next_blobs()) or blobs[0].verified_at is None:
        pass
    assert (blobs[0].digest, blobs[0].completed, blobs[0].damaged_at) == (DIGEST, len(CONTENT), None)


async def test_a_failure_is_reported_and_not_tried_again_at_once(registry: Registry, running: Replicas) -> None:
    registry.sources.registry.content = b""
    registry.plan = CachePlan(fetch=(DIGEST,))
    while not (blobs := await registry.next_blobs()) or not blobs[0].error:
        pass
    assert "does not have" in blobs[0].error
    asked = len(registry.sources.asked)
    running._cache.changed.set()
    await registry.next_blobs()
    assert len(registry.sources.asked) == asked
    running.wake()
    while len(registry.sources.asked) == asked:
        await registry.next_blobs()


async def test_what_no_model_needs_is_dropped_unless_it_is_in_memory(
    registry: Registry, replicas: Replicas, cache: BlobCache, in_use: set[str]
) -> None:
    path = await cache.fetch(DIGEST)
    registry.plan = CachePlan(drop=(DIGEST,))
    in_use.add(DIGEST)
    await replicas.report()
    assert path.exists()
    in_use.clear()
    await replicas.report()
    assert not path.exists()


async def test_what_is_loaded_while_another_blob_is_dropped_stays(
    registry: Registry, cache: BlobCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, loaded, dropped = "sha256:" + "0" * 64, set[str](), list[str]()

    async def drop(digest: str) -> None:
        dropped.append(digest)
        loaded.add(DIGEST)

    monkeypatch.setattr(cache, "drop", drop)
    registry.plan = CachePlan(drop=(other, DIGEST))
    await Replicas(Reporter("n", "w", "http://w"), cache, cast(Bus, registry), lambda: set(loaded)).report()
    assert dropped == [other]


async def test_without_a_registry_it_reports_later(registry: Registry, replicas: Replicas) -> None:
    answers = iter((Unavailable(), None))

    async def ask(query: ReportCache, *, timeout: float = 5.0) -> CachePlan:
        registry.reports.put_nowait(query)
        if (error := next(answers)) is not None:
            raise error
        return CachePlan()

    registry.ask = ask  # type: ignore[method-assign]
    reporting = asyncio.create_task(replicas.keep_reporting())
    assert await registry.next_blobs() == await registry.next_blobs() == ()
    reporting.cancel()


async def test_old_blobs_are_verified_again(replicas: Replicas, cache: BlobCache) -> None:
    path = await cache.fetch(DIGEST)
    with path.open("r+b") as file:
        file.write(b"rotten")
    cache.changed.clear()
    scrubbing = asyncio.create_task(replicas.keep_scrubbing(0.001, 10**9))
    while path.exists():
        await asyncio.wait_for(cache.changed.wait(), 10)
        cache.changed.clear()
    [blob] = await cache.describe()
    assert blob.damaged_at is not None
    scrubbing.cancel()


def test_the_key_of_a_worker_is_not_shown() -> None:
    reporter = Reporter("n", "w", "http://w")
    assert reporter.peer_key not in repr(reporter)
    report = ReportCache(node="n", worker_id="w", peer_url="u", peer_key=reporter.peer_key, blobs=())
    assert reporter.peer_key not in repr(report)
