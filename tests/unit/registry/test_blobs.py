import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.errors import InvalidRequest, RequestCancelled, StorageFull
from services.registry import blobs
from services.registry.blobs import Blob, BlobStore, normalised

CONTENT = b"some weights"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "data")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


async def test_a_file_on_the_same_disk_is_linked(store: BlobStore, source: Path) -> None:
    blob = await store.add_file(source)
    assert (blob.digest, blob.size) == (DIGEST, len(CONTENT))
    assert store.path(DIGEST).samefile(source)
    assert store.path(DIGEST).name == DIGEST.replace(":", "-")


async def test_a_symbolic_link_is_followed(store: BlobStore, source: Path) -> None:
    link = source.with_name("link.gguf")
    link.symlink_to(source)
    await store.add_file(link)
    assert not store.path(DIGEST).is_symlink()
    assert store.path(DIGEST).read_bytes() == CONTENT


async def test_adding_again_leaves_nothing_behind(store: BlobStore, source: Path) -> None:
    for _ in range(2):
        await store.add_file(source)
        await store.add_bytes(CONTENT)
    assert os.listdir(store.path(DIGEST).parent) == [store.path(DIGEST).name]  # noqa: PTH208  names are all we want


async def test_a_missing_file_leaves_nothing_behind(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await store.add_file(tmp_path / "nowhere")
    assert list((tmp_path / "data" / "blobs").iterdir()) == []


async def test_holds(store: BlobStore, source: Path, tmp_path: Path) -> None:
    assert not await store.holds(DIGEST, source)
    await store.add_file(source)
    assert await store.holds(DIGEST, source)
    copy, other = tmp_path / "copy", tmp_path / "other"
    copy.write_bytes(CONTENT)
    other.write_bytes(b"else")
    assert await store.holds(DIGEST, copy)
    assert not await store.holds(DIGEST, other)


async def test_find(store: BlobStore) -> None:
    assert await store.find(DIGEST) is None
    blob = await store.add_bytes(CONTENT)
    assert await store.find(DIGEST) == blob


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "g" * 64, "../" + "a" * 64, "md5:" + "a" * 64, DIGEST + "/.."]
)
def test_not_a_digest(text: str) -> None:
    assert normalised(text) is None


@pytest.mark.parametrize("text", [DIGEST, DIGEST.replace(":", "-"), DIGEST.replace(":", "-").upper()])
def test_a_digest_as_clients_write_it(text: str) -> None:
    assert normalised(text) == DIGEST


async def arriving(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def everything_in(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.path(DIGEST).parent.iterdir())


async def test_receive(store: BlobStore) -> None:
    assert await store.receive(DIGEST, arriving(CONTENT[:3], b"", CONTENT[3:])) == Blob(DIGEST, len(CONTENT))
    assert store.path(DIGEST).read_bytes() == CONTENT
    assert everything_in(store) == [store.path(DIGEST).name]


async def test_receive_more_than_one_batch(store: BlobStore) -> None:
    chunks = [bytes([number]) * 700_000 for number in range(5)]
    digest = f"sha256:{hashlib.sha256(b''.join(chunks)).hexdigest()}"
    await store.receive(digest, arriving(*chunks))
    assert store.path(digest).read_bytes() == b"".join(chunks)


async def test_receive_other_bytes_than_announced(store: BlobStore) -> None:
    with pytest.raises(InvalidRequest, match=f'digest mismatch, expected "{DIGEST}", got "sha256:'):
        await store.receive(DIGEST, arriving(CONTENT, b"!"))
    assert everything_in(store) == []


async def test_a_client_that_goes_away_leaves_nothing_behind(store: BlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield CONTENT[:5]
        raise RequestCancelled

    with pytest.raises(RequestCancelled):
        await store.receive(DIGEST, broken())
    assert everything_in(store) == []


async def test_two_may_send_the_same_at_once(store: BlobStore) -> None:
    await asyncio.gather(*(store.receive(DIGEST, arriving(CONTENT)) for _ in range(3)))
    assert everything_in(store) == [store.path(DIGEST).name]


async def test_a_full_disk_says_so(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("services.registry.blobs.sync", full)
    with pytest.raises(StorageFull):
        await store.receive(DIGEST, arriving(CONTENT))
    assert everything_in(store) == []


async def test_adopt(store: BlobStore) -> None:
    partial = store.partial_path(DIGEST)
    partial.write_bytes(CONTENT)
    assert await store.adopt(partial, DIGEST) == Blob(DIGEST, len(CONTENT))
    assert everything_in(store) == [store.path(DIGEST).name]


async def test_what_is_wrong_is_not_adopted(store: BlobStore) -> None:
    partial = store.partial_path(DIGEST, 3)
    partial.write_bytes(b"else")
    with pytest.raises(InvalidRequest, match="digest mismatch"):
        await store.adopt(partial, DIGEST)
    assert everything_in(store) == []


async def test_remove(store: BlobStore) -> None:
    await store.add_bytes(CONTENT)
    for _ in range(2):
        await store.remove(DIGEST)
        assert await store.find(DIGEST) is None


async def test_renewing_makes_it_young_again(store: BlobStore) -> None:
    assert await store.renew(DIGEST) is None
    blob = await store.add_bytes(CONTENT)
    os.utime(store.path(DIGEST), (0, 0))
    assert await store.renew(DIGEST) == blob
    assert store.path(DIGEST).stat().st_mtime > 0


async def test_a_link_that_leads_nowhere_keeps_nobody_from_finding_old_blobs(store: BlobStore) -> None:
    blob = await store.add_bytes(b"old")
    store.path("sha256:" + "0" * 64).symlink_to("nowhere")
    assert await store.list_old(-60) == [blob.digest]


async def test_many_large_files_that_are_verified_leave_threads_for_others(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(blobs, "_sha256", lambda _path: DIGEST if may_end.wait(30) else "")
    adding = [asyncio.create_task(store.add_file(source)) for _ in range(40)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(5):
            assert await store.find(DIGEST) is None
    finally:
        may_end.set()
    assert await asyncio.gather(*adding) == [Blob(DIGEST, len(CONTENT))] * 40
