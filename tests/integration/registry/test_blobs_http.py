import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.registry import catalog, imports
from services.registry.api import door
from services.registry.context import Context
from tests.fixtures.buses import eventually
from tests.integration.registry.conftest import BLOB_TOKEN


@pytest.fixture
async def digest(ctx: Context, tiny_gguf: Path) -> str:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    ref = await catalog.resolve(ctx, "tiny")
    assert ref.weights is not None
    return ref.weights


async def test_the_whole_blob(http: httpx.AsyncClient, digest: str) -> None:
    response = await http.get(f"/blobs/{digest}")
    assert response.status_code == 200
    assert f"sha256:{hashlib.sha256(response.content).hexdigest()}" == digest
    assert response.headers["etag"] == f'"{digest}"'
    assert response.headers["accept-ranges"] == "bytes"


async def test_head(http: httpx.AsyncClient, digest: str, tiny_bytes: bytes) -> None:
    response = await http.head(f"/blobs/{digest.replace(':', '-')}")
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(tiny_bytes)
    assert response.content == b""


async def test_a_range(http: httpx.AsyncClient, digest: str, tiny_bytes: bytes) -> None:
    for wanted, expected in (("bytes=10-19", tiny_bytes[10:20]), ("bytes=1000-", tiny_bytes[1000:])):
        response = await http.get(f"/blobs/{digest}", headers={"Range": wanted, "If-Range": f'"{digest}"'})
        assert response.status_code == 206
        assert response.content == expected


async def test_a_range_beyond_the_end(http: httpx.AsyncClient, digest: str) -> None:
    assert (await http.get(f"/blobs/{digest}", headers={"Range": "bytes=99999999-"})).status_code == 416


@pytest.mark.parametrize("token", ["", "Bearer wrong", f"Basic {BLOB_TOKEN}", BLOB_TOKEN, "Bearer"])
async def test_only_workers(http: httpx.AsyncClient, digest: str, token: str) -> None:
    for path in (f"/blobs/{digest}", "/blobs/nonsense"):
        response = await http.get(path, headers={"Authorization": token})
        assert response.status_code == 401
        assert response.json() == {"error": {"code": "unauthenticated", "message": "unauthorized"}}


@pytest.mark.parametrize("name", ["sha256:" + "0" * 63, "nonsense", "sha256:..", "%00", "%2e%2e%2fmanifests"])
async def test_what_is_no_digest(http: httpx.AsyncClient, digest: str, name: str) -> None:
    response = await http.get(f"/blobs/{name}")
    assert response.status_code in {400, 404}
    assert set(response.json()["error"]) == {"code", "message"}


async def test_an_unknown_digest(http: httpx.AsyncClient) -> None:
    response = await http.get("/blobs/sha256:" + "0" * 64)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


NEW = b"bytes of a client" * 100_000
NEW_DIGEST = f"sha256:{hashlib.sha256(NEW).hexdigest()}"


async def test_a_blob_is_stored(ctx: Context, http: httpx.AsyncClient) -> None:
    assert (await http.post(f"/blobs/{NEW_DIGEST}", content=NEW)).status_code == 201
    assert ctx.blobs.path(NEW_DIGEST).read_bytes() == NEW
    assert (await http.post(f"/blobs/{NEW_DIGEST}", content=b"unread")).status_code == 200


async def test_a_body_that_does_not_go_on_is_given_up(
    ctx: Context, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose machine lost its power never closes the connection."""
    monkeypatch.setattr(door, "PAUSE_SECONDS", 0.2)

    async def broken_off() -> AsyncIterator[bytes]:
        yield NEW[:-1]
        await asyncio.Event().wait()

    upload = asyncio.create_task(http.post(f"/blobs/{NEW_DIGEST}", content=broken_off()))
    directory = ctx.blobs.path(NEW_DIGEST).parent
    await eventually(lambda: list(directory.glob("*-partial")))
    await eventually(lambda: not list(directory.glob("*-partial")))
    upload.cancel()


async def test_a_blob_of_other_bytes(ctx: Context, http: httpx.AsyncClient) -> None:
    response = await http.post(f"/blobs/{NEW_DIGEST}", content=NEW[:-1])
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(f'digest mismatch, expected "{NEW_DIGEST}", got "sha256:')
    assert await ctx.blobs.find(NEW_DIGEST) is None
