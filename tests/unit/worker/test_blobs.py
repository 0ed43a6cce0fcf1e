import asyncio
import errno
import fcntl
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common.bus.base import Handlers
from libs.common.contracts.message import Command, Event, Query
from libs.common.contracts.registry import BlobLocation
from libs.common.errors import InvalidRequest, ModelLoadFailed, NotFound
from services.worker.blobs import BlobCache

CONTENT = bytes(range(256)) * 1000
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Registry:
    """Answers LocateBlob as a bus, and serves the bytes over HTTP with ranges."""

    connected = True

    def __init__(self) -> None:
        self.content = CONTENT
        self.path = "/nowhere"
        self.ranges: list[str] = []
        self.bad_answers: list[Response] = []
        self.app = Starlette(routes=[Route("/blob", self._serve)])

    async def ask(self, query: Query[Any], *, timeout: float = 5.0) -> Any:
        if not self.content:
            raise NotFound
        return BlobLocation(url="http://registry/blob", path=self.path, size=len(CONTENT))

    async def _serve(self, request: Request) -> Response:
        self.ranges.append(request.headers["range"])
        if self.bad_answers:
            return self.bad_answers.pop(0)
        start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        return Response(self.content[start:], status_code=206)

    async def send(self, command: Command, **_: object) -> None:
        raise NotImplementedError

    async def publish(self, event: Event) -> None:
        raise NotImplementedError

    async def subscribe(self, handlers: Handlers, context: object) -> None:
        raise NotImplementedError

    async def stop_consuming(self) -> None:
        raise NotImplementedError

    async def drain(self, timeout: float) -> None:
        raise NotImplementedError


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def cache(registry: Registry, tmp_path: Path) -> AsyncIterator[BlobCache]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(registry.app)) as http:
        yield BlobCache(tmp_path / "cache", registry, http)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / DIGEST.replace(":", "-")


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def present(path: Path) -> bool:
    return path.exists()


async def test_downloads_once_for_all(cache: BlobCache, registry: Registry) -> None:
    paths = await asyncio.gather(*(cache.fetch(DIGEST) for _ in range(5)))
    assert (await asyncio.to_thread(paths[0].read_bytes)) == CONTENT
    await cache.fetch(DIGEST)
    assert registry.ranges == ["bytes=0-"]


async def test_links_a_file_on_the_same_disk(cache: BlobCache, registry: Registry, target: Path) -> None:
    original = target.parent.parent / "original"
    original.write_bytes(CONTENT)
    registry.path = str(original)
    assert (await cache.fetch(DIGEST)).samefile(original)
    assert registry.ranges == []


async def test_a_corrupt_original_is_not_trusted(cache: BlobCache, registry: Registry, target: Path) -> None:
    original = target.parent.parent / "original"
    original.write_bytes(b"x" * len(CONTENT))
    registry.path = str(original)
    assert (await cache.fetch(DIGEST)).read_bytes() == CONTENT
    assert original.exists()


async def test_resumes_a_partial_download(cache: BlobCache, registry: Registry, target: Path) -> None:
    target.with_suffix(".partial").write_bytes(CONTENT[:1000])
    assert (await cache.fetch(DIGEST)).read_bytes() == CONTENT
    assert registry.ranges == ["bytes=1000-"]
    assert not target.with_suffix(".partial").exists()


async def test_a_corrupt_partial_is_fetched_again(cache: BlobCache, registry: Registry, target: Path) -> None:
    target.with_suffix(".partial").write_bytes(b"x" * 1000)
    assert (await cache.fetch(DIGEST)).read_bytes() == CONTENT
    assert registry.ranges == ["bytes=1000-", "bytes=0-"]


async def test_a_corrupt_file_in_the_cache_is_fetched_again(cache: BlobCache, target: Path) -> None:
    put(target, b"x" * len(CONTENT))
    assert (await cache.fetch(DIGEST)).read_bytes() == CONTENT


async def test_a_server_without_ranges(cache: BlobCache, registry: Registry, target: Path) -> None:
    target.with_suffix(".partial").write_bytes(CONTENT[:1000])
    registry.bad_answers = [Response(CONTENT)]
    assert (await cache.fetch(DIGEST)).read_bytes() == CONTENT


async def test_an_error_is_tried_again(cache: BlobCache, registry: Registry) -> None:
    registry.bad_answers = [Response("busy", 503)]
    assert (await cache.fetch(DIGEST)).read_bytes() == CONTENT


async def test_gives_up_on_wrong_bytes(cache: BlobCache, registry: Registry, target: Path) -> None:
    registry.content = b"y" * len(CONTENT)
    with pytest.raises(ModelLoadFailed, match="not those of its digest"):
        await cache.fetch(DIGEST)
    assert not present(target)


async def test_a_blob_nobody_has(cache: BlobCache, registry: Registry) -> None:
    registry.content = b""
    with pytest.raises(ModelLoadFailed, match="does not have"):
        await cache.fetch(DIGEST)


@pytest.mark.parametrize("digest", ["sha256:abc", "../../etc/passwd", DIGEST + "\n", DIGEST.upper(), ""])
async def test_refuses_what_is_no_digest(cache: BlobCache, digest: str) -> None:
    with pytest.raises(InvalidRequest):
        await cache.fetch(digest)


async def test_waits_for_another_process(cache: BlobCache, target: Path) -> None:
    with target.with_suffix(".lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        fetching = asyncio.create_task(cache.fetch(DIGEST))
        done, _ = await asyncio.wait({fetching}, timeout=0.05)
        assert not done
    assert (await fetching).read_bytes() == CONTENT


async def test_a_full_disk_is_a_clear_error(cache: BlobCache, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: Path, other: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(ModelLoadFailed, match="no space is left"):
        await cache.fetch(DIGEST)
    assert not target.with_suffix(".partial").exists()
