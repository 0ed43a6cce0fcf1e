"""Blobs and the registry protocol as clients see them: a gateway and a registry, both on real sockets."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from libs.common.contracts.auth.identity import VerifyKey
from services.gateway import registry_http
from services.registry import catalog, imports
from services.registry.context import Context
from services.registry.settings import Settings
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import Gateway, a_gateway, serving
from tests.integration.registry.conftest import BLOB_TOKEN

CONTENT = b"what a layer holds" * 100_000
UPLOADS = "/v2/team/model/blobs/uploads/"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


DIGEST = digest_of(CONTENT)
LIMIT = 4 << 20


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_blob_bytes": LIMIT})


@pytest.fixture
async def gateway(http: httpx.AsyncClient) -> AsyncIterator[Gateway]:
    async with a_gateway(registry_url=str(http.base_url), blob_token=BLOB_TOKEN) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client


async def pieces(content: bytes = CONTENT, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def test_a_blob_is_uploaded_once(ctx: Context, client: httpx.AsyncClient) -> None:
    path = f"/api/blobs/{DIGEST}"
    assert (await client.head(path)).status_code == 404
    created = await client.post(path, content=CONTENT, headers={"Content-Type": "application/json"})
    assert (created.status_code, created.content) == (201, b"")
    assert (await client.head(path)).status_code == 200
    assert (await client.head(path.replace(":", "-"))).status_code == 200
    assert (await client.post(path, content=CONTENT)).status_code == 200
    assert (await client.post(path, content=b"not even looked at")).status_code == 200
    assert ctx.blobs.path(DIGEST).read_bytes() == CONTENT


async def test_a_body_of_unknown_length(ctx: Context, client: httpx.AsyncClient) -> None:
    assert (await client.post(f"/api/blobs/{DIGEST}", content=pieces())).status_code == 201
    assert ctx.blobs.path(DIGEST).read_bytes() == CONTENT


async def test_other_bytes_than_announced(ctx: Context, client: httpx.AsyncClient) -> None:
    response = await client.post(f"/api/blobs/{DIGEST}", content=CONTENT[:-1])
    assert response.status_code == 400
    got = digest_of(CONTENT[:-1])
    assert response.json() == {"error": f'digest mismatch, expected "{DIGEST}", got "{got}"'}
    assert await ctx.blobs.find(DIGEST) is None


@pytest.mark.parametrize("path", [f"/api/blobs/{DIGEST}", f"{UPLOADS}?digest={DIGEST}"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_what_is_too_large(ctx: Context, client: httpx.AsyncClient, path: str, streamed: bool) -> None:
    content = b"x" * (LIMIT + 1)
    response = await client.post(path, content=pieces(content, 100_000) if streamed else content)
    assert response.status_code == 413
    assert "request body too large" in response.text
    assert list(ctx.blobs.path(DIGEST).parent.glob("*-partial")) == []


async def test_a_client_that_goes_away_leaves_nothing(ctx: Context, gateway: Gateway) -> None:
    started = asyncio.Event()
    directory = ctx.blobs.path(DIGEST).parent

    async def for_ever() -> AsyncIterator[bytes]:
        yield CONTENT
        started.set()
        await asyncio.Event().wait()

    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        upload = asyncio.create_task(client.post(f"/api/blobs/{DIGEST}", content=for_ever()))
        await started.wait()
        async with asyncio.timeout(10):
            while not list(directory.glob("*-partial")):  # noqa: ASYNC110  the registry stores it meanwhile
                await asyncio.sleep(0.01)
            upload.cancel()
            while list(directory.glob("*-partial")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert list(directory.iterdir()) == []


async def test_without_a_registry() -> None:
    async with a_gateway(registry_url="http://127.0.0.1:9") as gateway, gateway.client() as client:
        response = await client.post(f"/api/blobs/{DIGEST}", content=CONTENT)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        v2 = await client.get("/v2/library/m/manifests/latest")
        assert (v2.status_code, v2.json()["errors"][0]["code"]) == (503, "UNKNOWN")


async def test_an_upload_that_stops_moving(ctx: Context, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_http, "PAUSE_SECONDS", 0.3)
    async with serving(gateway) as url, asyncio.timeout(10):
        address = httpx.URL(url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST /api/blobs/{DIGEST} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
        writer.write(head.encode() + CONTENT[:5000])
        assert b" 503 " in await reader.readline()
        writer.close()
        directory = ctx.blobs.path(DIGEST).parent
        while list(directory.glob("*-partial")):  # noqa: ASYNC110  the registry sees the connection close
            await asyncio.sleep(0.01)


async def test_a_gateway_with_another_token_tells_nobody_why(http: httpx.AsyncClient) -> None:
    async with a_gateway(registry_url=str(http.base_url), blob_token="x" * 16) as gateway, gateway.client() as client:
        response = await client.get("/v2/library/m/manifests/latest")
        assert (response.status_code, response.json()["errors"][0]["message"]) == (500, "internal error")


@pytest.fixture
async def model(ctx: Context, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)


async def test_the_version(client: httpx.AsyncClient) -> None:
    for path in ("/v2/", "/v2"):
        response = await client.get(path)
        assert (response.status_code, response.json()) == (200, {})
        assert response.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.usefixtures("model")
async def test_a_pull_as_ollama_does_it(client: httpx.AsyncClient, tiny_bytes: bytes) -> None:
    accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    manifest = await client.get("/v2/library/tiny/manifests/latest", headers=accept)
    assert manifest.headers["docker-content-digest"] == digest_of(manifest.content)
    for layer in (manifest.json()["config"], *manifest.json()["layers"]):
        path = f"/v2/library/tiny/blobs/{layer['digest']}"
        head = await client.head(path)
        assert (head.status_code, int(head.headers["content-length"])) == (200, layer["size"])
        whole = await client.get(path)
        assert digest_of(whole.content) == layer["digest"]
        assert whole.headers["location"] == f"{client.base_url}{path}".replace("//v2", "/v2")
        part = await client.get(path, headers={"Range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, whole.content[1:4])
        assert part.headers["content-range"] == f"bytes 1-3/{layer['size']}"


@pytest.mark.usefixtures("model")
async def test_a_push_as_ollama_does_it(ctx: Context, client: httpx.AsyncClient) -> None:
    """Parts by PATCH, each at the Location that the one before answered with; then PUT, then the manifest."""
    manifest = (await client.get("/v2/library/tiny/manifests/latest")).json()
    begun = await client.post(UPLOADS)
    assert begun.status_code == 202
    location = begun.headers["location"]
    assert location.startswith(
        f"{client.base_url}v2/" if str(client.base_url).endswith("/") else f"{client.base_url}/v2/"
    )
    half = len(CONTENT) // 2
    for start, end in ((0, half), (half, len(CONTENT))):
        patched = await client.patch(
            location, content=pieces(CONTENT[start:end]), headers={"Content-Range": f"{start}-{end - 1}"}
        )
        assert (patched.status_code, patched.headers["range"]) == (202, f"0-{end - 1}")
        location = patched.headers["location"]
    done = await client.put(location, params={"digest": DIGEST, "etag": "abc-2"})
    assert done.status_code == 201
    manifest["layers"].append(
        {"mediaType": "application/vnd.ollama.image.license", "digest": DIGEST, "size": len(CONTENT)}
    )
    put = await client.put("/v2/team/model/manifests/v1", content=json.dumps(manifest))
    assert (put.status_code, put.headers["location"].startswith("http://")) == (201, True)
    assert (await catalog.resolve(ctx, "team/model:v1")).name == "team/model:v1"
    assert (await client.get("/v2/team/model/tags/list")).json() == {"name": "team/model", "tags": ["v1"]}


async def test_a_place_behind_a_proxy(http: httpx.AsyncClient) -> None:
    settings = {"registry_url": str(http.base_url), "blob_token": BLOB_TOKEN, "public_url": "https://models.example/"}
    async with a_gateway(**settings) as gateway, gateway.client() as client:
        location = (await client.post(UPLOADS)).headers["location"]
        assert location.startswith("https://models.example/v2/team/model/blobs/uploads/")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/library/nope/manifests/latest", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/library/tiny/manifests/{DIGEST}", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/library/tiny/blobs/{DIGEST}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/library/tiny/blobs/sha256:1", 400, "DIGEST_INVALID"),
        ("GET", "/v2/library/nope/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/library/tiny/tags/list?n=x", 400, "UNKNOWN"),
        ("PATCH", UPLOADS + "0" * 32, 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT", UPLOADS + "0" * 32, 400, "DIGEST_INVALID"),
        ("PUT", "/v2/library/tiny/manifests/v2", 400, "MANIFEST_INVALID"),
        ("GET", "/v2/.hidden/tiny/manifests/latest", 400, "NAME_INVALID"),
        ("GET", "/v2/%2e%2e/manifests/latest", 400, "NAME_INVALID"),
        ("GET", "/v2/a%2F..%2F..%2Fblobs/manifests/latest", 400, "NAME_INVALID"),
        ("GET", "/v2/a%3Fb/manifests/latest", 400, "NAME_INVALID"),
        ("GET", "/v2/a/b/c/d/manifests/latest", 400, "NAME_INVALID"),
    ],
)
async def test_refusals_in_the_protocols_words(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (status, code)


@pytest.mark.usefixtures("model")
async def test_a_range_beyond_the_end(client: httpx.AsyncClient, tiny_bytes: bytes) -> None:
    response = await client.get(f"/v2/library/tiny/blobs/{digest_of(tiny_bytes)}", headers={"Range": "bytes=99999999-"})
    assert response.status_code == 416


async def test_unknown_paths(client: httpx.AsyncClient) -> None:
    for path in ("/v2/x", "/v2/library/tiny", "/v2/library/tiny/blobs", "/v2/_catalog"):
        assert (await client.get(path)).status_code == 404


async def test_who_may_pull_and_who_may_push(http: httpx.AsyncClient, ctx: Context, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    roles = {"omx_boss": "operator", "omx_reader": "readonly"}
    settings = {"registry_url": str(http.base_url), "blob_token": BLOB_TOKEN, "anonymous": False}
    async with a_gateway(**settings) as gateway, gateway.client() as client:
        by_digest = {digest_of(key.encode()).removeprefix("sha256:"): role for key, role in roles.items()}
        gateway.bus.answers[VerifyKey] = lambda query: an_identity(by_digest[query.digest], organization_id="default")
        stranger = await client.get("/v2/")
        assert (stranger.status_code, stranger.headers["www-authenticate"]) == (401, 'Basic realm="OllamaMax"')
        assert stranger.json()["errors"][0]["code"] == "UNAUTHORIZED"
        basic = {"Authorization": "Basic " + base64.b64encode(b"any:omx_reader").decode()}
        assert (await client.get("/v2/library/tiny/manifests/latest", headers=basic)).status_code == 200
        refused = await client.post(UPLOADS, headers=basic)
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (403, "DENIED")
        assert (await client.post(UPLOADS, headers={"Authorization": "Bearer omx_boss"})).status_code == 202
