import asyncio
import errno
import fcntl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from starlette.responses import Response

from libs.common.errors import InvalidRequest, ModelLoadFailed, NotFound
from services.worker.blobs.cache import BlobCache
from services.worker.blobs.files import CHUNK_BYTES, BlobFiles
from services.worker.blobs.throttle import Throttle
from tests.fixtures.blob_sources import CHUNKS, CONTENT, DIGEST, Sources, chunk, damaged
from tests.fixtures.buses import eventually


@pytest.fixture
def sources() -> Sources:
    return Sources()


@pytest.fixture
def files(tmp_path: Path) -> BlobFiles:
    (tmp_path / "cache").mkdir()
    return BlobFiles.of(tmp_path / "cache", DIGEST)


@asynccontextmanager
async def a_cache(sources: Sources, files: BlobFiles) -> AsyncIterator[BlobCache]:
    """Of the node ``here``."""
    async with (
        sources.http() as http,
        aclosing(
            BlobCache(files.blob.parent, "here", sources.bus, http, sources.registry.token, pauses=(0, 0))
        ) as cache,
    ):
        yield cache


@pytest.fixture
async def cache(sources: Sources, files: BlobFiles) -> AsyncIterator[BlobCache]:
    """With one peer."""
    sources.add_peer()
    async with a_cache(sources, files) as cache:
        yield cache


@pytest.fixture
async def lonely(sources: Sources, files: BlobFiles) -> AsyncIterator[BlobCache]:
    """Without peers."""
    async with a_cache(sources, files) as cache:
        yield cache


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def arrived(files: BlobFiles, *indexes: int) -> None:
    """These chunks are there from an earlier process."""
    files.prepare(len(CONTENT))
    for index in indexes:
        files.store(index, chunk(index))


async def test_is_fetched_once_for_all(lonely: BlobCache, sources: Sources) -> None:
    paths = await asyncio.gather(*(lonely.fetch(DIGEST) for _ in range(5)))
    assert content_of(paths[0]) == CONTENT
    await lonely.fetch(DIGEST)
    assert sorted(sources.registry.chunks) == [0, 1, 2]
    assert [query.node for query in sources.asked] == ["here"]


async def test_peers_come_before_the_registry(cache: BlobCache, sources: Sources) -> None:
    assert content_of(await cache.fetch(DIGEST)) == CONTENT
    assert sorted(sources.peers[0].chunks) == [0, 1, 2]
    assert sources.registry.chunks == []


async def test_the_registry_gives_what_a_peer_does_not(cache: BlobCache, sources: Sources) -> None:
    sources.peers[0].answers = [Response(chunk(0), 206), *(Response("gone", 404) for _ in range(4))]
    assert content_of(await cache.fetch(DIGEST)) == CONTENT
    assert len(sources.registry.chunks) == CHUNKS - 1


async def test_peers_are_asked_again_when_a_token_expires_in_between(cache: BlobCache, sources: Sources) -> None:
    sources.peers[0].answers = [Response(chunk(0), 206), Response("expired", 401), Response("expired", 401)]
    assert content_of(await cache.fetch(DIGEST)) == CONTENT
    assert (len(sources.asked), sources.registry.chunks) == (2, [])


async def test_an_address_that_is_none_counts_as_a_peer_that_is_gone(lonely: BlobCache, sources: Sources) -> None:
    sources.add_peer().name = "peer:no-port"
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT


@pytest.mark.parametrize("answer", [Response(b"too short", 206), Response(CONTENT, 206), Response(CONTENT, 200)])
async def test_an_answer_that_is_not_the_chunk_counts_as_none(
    cache: BlobCache, sources: Sources, answer: Response
) -> None:
    sources.peers[0].answers = [answer, answer]
    assert content_of(await cache.fetch(DIGEST)) == CONTENT


async def test_a_peer_with_wrong_bytes_is_not_asked_again(cache: BlobCache, sources: Sources) -> None:
    sources.peers[0].content = damaged(CONTENT, 1)
    assert content_of(await cache.fetch(DIGEST)) == CONTENT
    assert sorted(sources.registry.chunks) == [0, 1, 2]


async def test_links_a_file_on_the_same_disk(lonely: BlobCache, sources: Sources, files: BlobFiles) -> None:
    original = files.blob.parent.parent / "original"
    original.write_bytes(CONTENT)
    sources.path = str(original)
    assert (await lonely.fetch(DIGEST)).samefile(original)
    assert sources.registry.chunks == []
    assert not files.partial.exists()


async def test_a_corrupt_original_is_not_trusted(lonely: BlobCache, sources: Sources, files: BlobFiles) -> None:
    original = files.blob.parent.parent / "original"
    original.write_bytes(damaged(CONTENT, 0))
    sources.path = str(original)
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT
    assert original.read_bytes() == damaged(CONTENT, 0)
    assert not files.damaged.exists()


async def test_a_cut_off_link_is_made_again(lonely: BlobCache, sources: Sources, files: BlobFiles) -> None:
    """Killed between the link and its verification: nothing is there that would be lost."""
    original = files.blob.parent.parent / "original"
    original.write_bytes(CONTENT)
    sources.path = str(original)
    files.partial.hardlink_to(original)
    assert (await lonely.fetch(DIGEST)).samefile(original)


async def test_a_cut_off_link_is_never_written_into(lonely: BlobCache, files: BlobFiles) -> None:
    """Killed between the link and its verification: the partial is somebody else's file."""
    original = files.blob.parent.parent / "original"
    original.write_bytes(damaged(CONTENT, 0))
    files.partial.hardlink_to(original)
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT
    assert original.read_bytes() == damaged(CONTENT, 0)


async def test_goes_on_where_another_process_stopped(lonely: BlobCache, sources: Sources, files: BlobFiles) -> None:
    arrived(files, 0, 2)
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT
    assert sources.registry.chunks == [1]
    assert not files.partial.exists()
    assert not files.arrived.exists()


async def test_a_corrupt_partial_is_fetched_again(lonely: BlobCache, sources: Sources, files: BlobFiles) -> None:
    files.prepare(len(CONTENT))
    files.store(0, damaged(chunk(0), 0))
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT
    assert sorted(sources.registry.chunks) == [0, 1, 1, 2, 2]


async def test_a_wrong_file_under_the_name_is_fetched_again(lonely: BlobCache, files: BlobFiles) -> None:
    files.blob.write_bytes(b"x" * 1000)
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT


async def test_only_the_damaged_chunk_is_fetched_again(lonely: BlobCache, sources: Sources, files: BlobFiles) -> None:
    await lonely.fetch(DIGEST)
    sources.registry.chunks.clear()
    files.blob.write_bytes(damaged(CONTENT, 1))
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT
    assert sources.registry.chunks == [1]
    assert files.damaged.exists()


async def test_all_that_is_damaged_is_found_with_the_first(
    lonely: BlobCache, sources: Sources, files: BlobFiles
) -> None:
    await lonely.fetch(DIGEST)
    files.blob.write_bytes(damaged(damaged(CONTENT, 0), 2))
    await lonely.scrub(DIGEST, Throttle(0))
    sources.registry.chunks.clear()
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT
    assert sorted(sources.registry.chunks) == [0, 2]


async def test_a_damaged_blob_is_broken_up_though_who_found_it_gives_up(lonely: BlobCache, files: BlobFiles) -> None:
    await lonely.fetch(DIGEST)
    files.blob.write_bytes(damaged(CONTENT, 1))
    with files.lock.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        reading = asyncio.create_task(lonely.read(DIGEST, CHUNK_BYTES, 1))
        await eventually(lambda: DIGEST in lonely._checks)  # which waits for the lock
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    lonely.changed.clear()
    await asyncio.wait_for(lonely.changed.wait(), 10)
    assert not files.blob.exists()


async def test_a_damaged_chunk_is_never_read(lonely: BlobCache, files: BlobFiles) -> None:
    await lonely.fetch(DIGEST)
    assert await lonely.read(DIGEST, 5, 100) == CONTENT[5:105]
    files.blob.write_bytes(damaged(CONTENT, 1))
    assert await lonely.read(DIGEST, 5, 100) == CONTENT[5:105]
    lonely.changed.clear()
    with pytest.raises(NotFound):
        await lonely.read(DIGEST, CHUNK_BYTES - 1, 2)
    assert lonely.changed.is_set()
    with pytest.raises(NotFound):
        await lonely.read(DIGEST, 5, 100)
    [state] = await lonely.describe()
    assert (state.verified_at, state.completed) == (None, len(CONTENT) - CHUNK_BYTES)
    assert state.damaged_at is not None


async def test_a_scrub_finds_damage(lonely: BlobCache, files: BlobFiles) -> None:
    await lonely.fetch(DIGEST)
    before = files.chunks.stat().st_mtime_ns
    await lonely.scrub(DIGEST, Throttle(0))
    assert files.chunks.stat().st_mtime_ns > before
    files.blob.write_bytes(damaged(CONTENT, 2))
    await lonely.scrub(DIGEST, Throttle(0))
    [state] = await lonely.describe()
    assert state.verified_at is None


async def test_what_is_dropped_leaves_nothing_but_its_lock(lonely: BlobCache, files: BlobFiles) -> None:
    await lonely.fetch(DIGEST)
    await lonely.drop(DIGEST)
    assert [path.suffix for path in files.blob.parent.iterdir()] == [".lock"]
    assert await lonely.describe() == ()
    with pytest.raises(NotFound):
        await lonely.read(DIGEST, 0, 1)


async def test_an_error_is_tried_again(lonely: BlobCache, sources: Sources) -> None:
    sources.registry.answers = [Response("busy", 503), Response("busy", 503)]
    assert content_of(await lonely.fetch(DIGEST)) == CONTENT


async def test_gives_up_on_wrong_bytes(lonely: BlobCache, sources: Sources, files: BlobFiles) -> None:
    sources.registry.content = damaged(CONTENT, 1)
    with pytest.raises(ModelLoadFailed, match="not those of their digest"):
        await lonely.fetch(DIGEST)
    assert len(sources.registry.chunks) == 2 * CHUNKS
    assert not files.blob.exists()


async def test_gives_up_on_a_registry_that_only_refuses(lonely: BlobCache, sources: Sources) -> None:
    sources.registry.answers = [Response("busy", 503) for _ in range(6)]
    with pytest.raises(ModelLoadFailed, match="503"):
        await lonely.fetch(DIGEST)


async def test_a_blob_nobody_has(lonely: BlobCache, sources: Sources) -> None:
    sources.registry.content = b""
    with pytest.raises(ModelLoadFailed, match="does not have"):
        await lonely.fetch(DIGEST)


@pytest.mark.parametrize("digest", ["sha256:abc", "../../etc/passwd", DIGEST + "\n", DIGEST.upper(), ""])
async def test_refuses_what_is_no_digest(lonely: BlobCache, digest: str) -> None:
    for call in (lonely.fetch(digest), lonely.read(digest, 0, 1), lonely.size(digest), lonely.drop(digest)):
        with pytest.raises(InvalidRequest):
            await call


async def test_waits_for_another_process(lonely: BlobCache, files: BlobFiles) -> None:
    with files.lock.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        fetching = asyncio.create_task(lonely.fetch(DIGEST))
        done, _ = await asyncio.wait({fetching}, timeout=0.05)
        assert not done
    assert content_of(await fetching) == CONTENT


async def test_a_full_disk_is_a_clear_error(
    lonely: BlobCache, files: BlobFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(self: BlobFiles, index: int, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BlobFiles, "store", no_space)
    with pytest.raises(ModelLoadFailed, match="no space is left"):
        await lonely.fetch(DIGEST)
    assert not files.partial.exists()
