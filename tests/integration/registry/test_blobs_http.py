import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from libs.common.tasks import Tasks
from libs.common.web import HttpServer, create_ops_app
from services.registry import catalog
from services.registry.api import router
from services.registry.context import Context
from tests.integration.registry.conftest import BLOB_TOKEN


@pytest.fixture
async def http(ctx: Context) -> AsyncIterator[httpx.AsyncClient]:
    """A worker's client, on a real server."""
    app = create_ops_app("registry", ctx, None, lambda: None, router)
    tasks = Tasks()
    async with (
        HttpServer.running(app, "127.0.0.1", 0, tasks.start) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {BLOB_TOKEN}"}, timeout=10
        ) as client,
    ):
        yield client


@pytest.fixture
async def digest(ctx: Context, tiny_gguf: Path) -> str:
    await catalog.import_gguf(ctx, "tiny", tiny_gguf)
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
