import hashlib
import os
from pathlib import Path

import pytest

from services.registry.blobs import BlobStore, normalised

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
