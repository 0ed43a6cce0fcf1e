"""The door for other workers, on a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import cast

import httpx
import pytest

from libs.common import peer_token
from libs.common.tasks import Tasks
from libs.common.web import HttpServer
from services.worker import peers
from services.worker.blobs.cache import BlobCache
from services.worker.blobs.files import CHUNK_BYTES
from tests.fixtures.blob_sources import CONTENT, DIGEST, Sources, damaged

KEY = "the key of this worker"


def credential(key: str = KEY, digest: str = DIGEST) -> str:
    """Made when it is needed: one made when this file was read had expired when a long run came here."""
    return f"Bearer {peer_token.issue(key, digest)}"


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[BlobCache]:
    """Has the blob."""
    sources = Sources()
    async with (
        sources.http() as http,
        aclosing(BlobCache(tmp_path, "here", sources.bus, http, sources.registry.token)) as cache,
    ):
        await cache.fetch(DIGEST)
        yield cache


class Door:
    """A peer's client."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def get(
        self, wanted: str = "bytes=0-9", *, authorization: str | None = None, digest: str = DIGEST
    ) -> httpx.Response:
        headers = {"Authorization": credential() if authorization is None else authorization, "Range": wanted}
        return await self._http.get(f"/blobs/{digest}", headers=headers)


@asynccontextmanager
async def opened(cache: BlobCache, *, transfers: int = 4, bytes_per_second: int = 0) -> AsyncIterator[Door]:
    app = peers.create_app(cache, KEY, transfers=transfers, bytes_per_second=bytes_per_second)
    async with (
        HttpServer.running(app, "127.0.0.1", 0, Tasks().start) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http,
    ):
        yield Door(http)


@pytest.fixture
async def door(cache: BlobCache) -> AsyncIterator[Door]:
    async with opened(cache) as door:
        yield door


@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 9), (CHUNK_BYTES - 5, CHUNK_BYTES + 4), (len(CONTENT) - 3, len(CONTENT) - 1), (0, CHUNK_BYTES - 1)],
)
async def test_a_range(door: Door, first: int, last: int) -> None:
    response = await door.get(f"bytes={first}-{last}")
    assert response.status_code == 206
    assert response.content == CONTENT[first : last + 1]
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "bytes=0-",
        "bytes=-5",
        "bytes=5-4",
        "bytes=0-1,3-4",
        f"bytes=0-{CHUNK_BYTES}",
        f"bytes={len(CONTENT)}-{len(CONTENT)}",
        "bytes=99999999999999999999-99999999999999999999",
    ],
)
async def test_ranges_that_no_peer_asks_for(door: Door, wanted: str) -> None:
    response = await door.get(wanted)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "authorization",
    [
        lambda: "",
        lambda: peer_token.issue(KEY, DIGEST),
        lambda: f"Basic {peer_token.issue(KEY, DIGEST)}",
        lambda: credential(digest=f"sha256:{'0' * 64}"),
        lambda: credential("the key of another worker"),
        lambda: f"Bearer {peer_token.issue(KEY, DIGEST, now=1.0)}",
    ],
)
async def test_only_who_has_a_token_for_this_blob(door: Door, authorization: Callable[[], str]) -> None:
    response = await door.get(authorization=authorization())
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthenticated")


async def test_a_blob_that_is_not_here(door: Door) -> None:
    digest = "sha256:" + "0" * 64
    response = await door.get(digest=digest, authorization=credential(digest=digest))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "sha256:abc", "%00"])
async def test_what_is_no_digest(door: Door, name: str) -> None:
    response = await door.get(digest=name, authorization=credential(digest=name))
    assert response.status_code in {400, 401, 404}


async def test_a_damaged_chunk_is_never_sent(door: Door, tmp_path: Path) -> None:
    (tmp_path / DIGEST.replace(":", "-")).write_bytes(damaged(CONTENT, 1))
    assert (await door.get()).content == CONTENT[:10]
    assert (await door.get(f"bytes={CHUNK_BYTES}-{CHUNK_BYTES + 1}")).status_code == 404
    assert (await door.get()).status_code == 404, "until it is whole again"


async def test_who_would_wait_too_long_is_sent_away(cache: BlobCache) -> None:
    async with opened(cache, bytes_per_second=CHUNK_BYTES // 20) as door:
        first = await door.get(f"bytes=0-{CHUNK_BYTES - 1}")
        assert first.status_code == 206
        second = await door.get()
        assert (second.status_code, second.json()["error"]["code"]) == (503, "overloaded")


async def test_so_many_at_once_and_no_more(cache: BlobCache) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    class SlowCache:
        size = cache.size

        async def read(self, *where: object) -> bytes:
            reading.set()
            await go_on.wait()
            return b"0123456789"

    async with opened(cast(BlobCache, SlowCache()), transfers=1) as door:
        held = asyncio.create_task(door.get())
        await asyncio.wait_for(reading.wait(), 10)
        assert (await door.get()).status_code == 503
        go_on.set()
        assert (await held).status_code == 206
        assert (await door.get()).status_code == 206
