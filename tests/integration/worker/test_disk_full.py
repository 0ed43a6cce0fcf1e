"""A worker's cache on a disk that is full: a tiny one of its own, which only root may mount."""

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from libs.common.errors import ModelLoadFailed
from services.worker.blobs.cache import BlobCache, InUse
from services.worker.blobs.files import BlobFiles
from tests.fixtures.blob_sources import CONTENT, DIGEST, Sources

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")

OLD = bytes(6 << 20)
OLD_DIGEST = "sha256:" + hashlib.sha256(OLD).hexdigest()


def mount(directory: Path, mib: int, *options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={mib}m"]), "tmpfs", str(directory)]
    if subprocess.run(command, check=False, capture_output=True, timeout=10).returncode:
        pytest.skip("root may not mount a disk here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Of 12 MiB: it holds what is fetched, or what was there before."""
    directory = tmp_path / "cache"
    directory.mkdir()
    mount(directory, 12)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True, timeout=10)


@pytest.fixture
async def cache(disk: Path) -> AsyncIterator[BlobCache]:
    sources = Sources()
    async with (
        sources.http() as http,
        aclosing(BlobCache(disk, "here", sources.bus, http, sources.registry.token, pauses=(0,))) as cache,
    ):
        yield cache


def have_old(disk: Path) -> BlobFiles:
    files = BlobFiles.of(disk, OLD_DIGEST)
    files.blob.write_bytes(OLD)
    assert files.check()
    return files


@pytest.mark.parametrize("keep", [None, lambda: {OLD_DIGEST}], ids=["a replica", "a model while the rest is in use"])
async def test_what_has_no_room_leaves_nothing_and_the_rest_goes_on(
    cache: BlobCache, disk: Path, keep: InUse | None
) -> None:
    old = have_old(disk)
    with pytest.raises(ModelLoadFailed, match="no space is left"):
        await cache.fetch(DIGEST, keep)
    fetched = BlobFiles.of(disk, DIGEST)
    assert not any(path.exists() for path in (fetched.blob, fetched.partial, fetched.arrived, fetched.chunks))
    assert (await cache.fetch(OLD_DIGEST, keep)) == old.blob
    assert old.check()


async def test_what_nobody_uses_makes_room_for_a_model(cache: BlobCache, disk: Path) -> None:
    old = have_old(disk)
    path = await cache.fetch(DIGEST, set)
    assert path.read_bytes() == CONTENT
    assert not old.blob.exists()


async def test_what_came_into_use_while_it_was_fetched_stays(cache: BlobCache, disk: Path) -> None:
    old, in_use = have_old(disk), set[str]()
    asyncio.get_running_loop().call_soon(in_use.add, OLD_DIGEST)
    with pytest.raises(ModelLoadFailed, match="no space is left"):
        await cache.fetch(DIGEST, lambda: in_use)
    assert old.check()


async def test_once_there_is_room_it_is_fetched(cache: BlobCache, disk: Path) -> None:
    have_old(disk)
    with pytest.raises(ModelLoadFailed, match="no space is left"):
        await cache.fetch(DIGEST)
    mount(disk, 32, "remount")
    assert (await cache.fetch(DIGEST)).read_bytes() == CONTENT
