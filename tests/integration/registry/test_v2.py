"""The registry protocol, on a real server, database and directory."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.registry import catalog, imports, uploads
from services.registry.context import Context
from services.registry.settings import Settings

CONTENT = b"what a layer holds" * 100
UPLOADS = "/v2/library/copy/blobs/uploads/"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


DIGEST = digest_of(CONTENT)
LIMIT = 1 << 20


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_blob_bytes": LIMIT})


@pytest.fixture
async def model(ctx: Context, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)


async def begin(http: httpx.AsyncClient) -> str:
    response = await http.post(UPLOADS)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == UPLOADS + response.headers["docker-upload-uuid"]
    return response.headers["location"]


async def patch(http: httpx.AsyncClient, location: str, content: bytes, start: int | None = None) -> httpx.Response:
    headers = {} if start is None else {"Content-Range": f"{start}-{start + len(content) - 1}"}
    return await http.patch(location, content=content, headers=headers)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("name", ["library/tiny", "tiny", "Library/TINY"])
async def test_a_model_is_read_by_tag_and_by_digest(http: httpx.AsyncClient, name: str) -> None:
    by_tag = await http.get(f"/v2/{name}/manifests/latest")
    assert by_tag.status_code == 200
    assert by_tag.headers["content-type"] == "application/vnd.docker.distribution.manifest.v2+json"
    digest = by_tag.headers["docker-content-digest"]
    assert digest == digest_of(by_tag.content)
    by_digest = await http.get(f"/v2/{name}/manifests/{digest}")
    assert by_digest.content == by_tag.content
    head = await http.head(f"/v2/{name}/manifests/latest")
    assert (head.headers["docker-content-digest"], head.content) == (digest, b"")
    assert int(head.headers["content-length"]) == len(by_tag.content)


@pytest.mark.usefixtures("model")
async def test_layers_with_ranges(http: httpx.AsyncClient, tiny_bytes: bytes) -> None:
    manifest = (await http.get("/v2/library/tiny/manifests/latest")).json()
    path = f"/v2/library/tiny/blobs/{manifest['layers'][0]['digest']}"
    head = await http.head(path)
    assert (head.status_code, int(head.headers["content-length"])) == (200, len(tiny_bytes))
    assert (await http.get(path)).content == tiny_bytes
    part = await http.get(path, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, tiny_bytes[5:10])


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/library/tiny/manifests/other", 404),
        ("/v2/library/nope/manifests/latest", 404),
        (f"/v2/library/tiny/manifests/sha256:{'0' * 64}", 404),
        ("/v2/library/..%2Ftiny/manifests/latest", 400),
        ("/v2/a/b/c/d/manifests/latest", 400),
        (f"/v2/library/tiny/blobs/sha256:{'0' * 64}", 404),
        ("/v2/library/tiny/blobs/sha256:short", 400),
        ("/v2/library/tiny/blobs/uploads/unknown", 404),
        (f"/v2/library/tiny/blobs/uploads/{'0' * 32}", 404),
        ("/v2/library/nope/tags/list", 404),
        ("/v2/library/tiny/tags/list?n=0", 422),
        ("/v2/library/tiny/tags/list?last=%00", 422),
    ],
)
async def test_what_is_not_there(http: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await http.get(path)).status_code == status


async def test_nobody_without_the_token(http: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/v2/library/tiny/manifests/latest"), ("POST", UPLOADS), ("PUT", UPLOADS + "0" * 32)):
        assert (await http.request(method, path, headers={"Authorization": "Bearer no"})).status_code == 401


async def test_tags_in_pages(ctx: Context, http: httpx.AsyncClient, tiny_gguf: Path) -> None:
    for tag in ("b", "a", "C"):
        await imports.import_gguf(ctx, f"tiny:{tag}", tiny_gguf)
    assert (await http.get("/v2/library/tiny/tags/list")).json() == {"name": "library/tiny", "tags": ["C", "a", "b"]}
    page = await http.get("/v2/library/tiny/tags/list?n=2")
    assert page.json()["tags"] == ["C", "a"]
    assert page.headers["link"] == '</v2/library/tiny/tags/list?n=2&last=a>; rel="next"'
    rest = await http.get("/v2/library/tiny/tags/list?n=2&last=a")
    assert (rest.json()["tags"], "link" in rest.headers) == (["b"], False)


async def test_an_upload_in_pieces(ctx: Context, http: httpx.AsyncClient) -> None:
    location = await begin(http)
    first = await patch(http, location, CONTENT[:1000], 0)
    assert (first.status_code, first.headers["range"]) == (202, "0-999")
    assert (await patch(http, first.headers["location"], CONTENT[1000:1200])).headers["range"] == "0-1199"
    status = await http.get(location)
    assert (status.status_code, status.headers["range"]) == (204, "0-1199")
    done = await http.put(location, params={"digest": DIGEST}, content=CONTENT[1200:])
    assert (done.status_code, done.headers["docker-content-digest"]) == (201, DIGEST)
    assert done.headers["location"] == f"/v2/library/copy/blobs/{DIGEST}"
    assert ctx.blobs.path(DIGEST).read_bytes() == CONTENT
    assert (await http.get(location)).status_code == 404
    again = await http.put(location, params={"digest": DIGEST})
    assert again.status_code == 201, "its first answer may have been lost"


async def test_a_piece_sent_again_replaces_itself(ctx: Context, http: httpx.AsyncClient) -> None:
    location = await begin(http)
    await patch(http, location, b"x" * 500, 0)
    assert (await patch(http, location, CONTENT, 0)).headers["range"] == f"0-{len(CONTENT) - 1}"
    assert (await http.put(location, params={"digest": DIGEST})).status_code == 201


async def test_a_gap_is_refused(http: httpx.AsyncClient) -> None:
    location = await begin(http)
    assert (await patch(http, location, CONTENT, 10)).status_code == 416
    for wrong in ("5-1", "nonsense"):
        refused = await http.patch(location, content=CONTENT, headers={"Content-Range": wrong})
        assert refused.status_code in {400, 416}
    assert (await http.get(location)).headers["range"] == "0-0"


async def test_wrong_bytes_end_the_upload(ctx: Context, http: httpx.AsyncClient) -> None:
    location = await begin(http)
    await patch(http, location, CONTENT[:-1])
    wrong = await http.put(location, params={"digest": DIGEST})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["message"].startswith(f'digest mismatch, expected "{DIGEST}"')
    assert (await http.get(location)).status_code == 404
    assert list((ctx.settings.data_dir / "uploads").iterdir()) == []


async def test_an_upload_can_be_abandoned(http: httpx.AsyncClient) -> None:
    location = await begin(http)
    assert (await http.delete(location)).status_code == 204
    assert (await http.delete(location)).status_code == 404


async def test_an_upload_in_one_request(ctx: Context, http: httpx.AsyncClient) -> None:
    done = await http.post(UPLOADS, params={"digest": DIGEST}, content=CONTENT)
    assert (done.status_code, done.headers["docker-content-digest"]) == (201, DIGEST)
    mounted = await http.post(UPLOADS, params={"mount": DIGEST, "from": "library/other"})
    assert mounted.status_code == 201
    unknown = await http.post(UPLOADS, params={"mount": digest_of(b"?"), "from": "library/other"})
    assert unknown.status_code == 202


async def test_one_piece_at_a_time(ctx: Context, http: httpx.AsyncClient) -> None:
    location = await begin(http)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        started.set()
        await go_on.wait()
        yield CONTENT

    first = asyncio.create_task(uploads.append(ctx, location.rpartition("/")[2], None, slowly()))
    await started.wait()
    assert (await patch(http, location, b"!")).status_code == 409
    assert (await http.put(location, params={"digest": DIGEST})).status_code == 409
    go_on.set()
    assert await first == len(CONTENT)
    assert (await http.put(location, params={"digest": DIGEST})).status_code == 201


async def test_what_is_too_large(http: httpx.AsyncClient) -> None:
    location = await begin(http)
    half = b"x" * (LIMIT // 2)
    assert (await patch(http, location, half)).status_code == 202
    assert (await patch(http, location, half)).status_code == 202
    assert (await patch(http, location, b"!")).status_code == 413
    assert (await http.post(f"/blobs/{DIGEST}", content=half * 2 + b"!")).status_code == 413


async def test_uploads_are_bounded_and_given_up(
    ctx: Context, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_UPLOADS", 2)
    old, new = await begin(http), await begin(http)
    assert (await http.post(UPLOADS)).status_code == 503
    touched = time.time() - uploads.CROWDED_PAUSE_SECONDS - 1
    os.utime(ctx.settings.data_dir / "uploads" / old.rpartition("/")[2], (touched, touched))
    assert (await http.post(UPLOADS)).status_code == 202
    assert ((await http.get(old)).status_code, (await http.get(new)).status_code) == (404, 204)


@pytest.mark.usefixtures("model")
async def test_a_manifest_makes_a_model(ctx: Context, http: httpx.AsyncClient, changes: list[str]) -> None:
    manifest = (await http.get("/v2/library/tiny/manifests/latest")).content
    put = await http.put("/v2/team/copy/manifests/v1", content=manifest)
    assert (put.status_code, put.headers["docker-content-digest"]) == (201, digest_of(manifest))
    assert (await catalog.resolve(ctx, "team/copy:v1")).digest == digest_of(manifest).removeprefix("sha256:")
    assert (await http.get("/v2/team/copy/manifests/v1")).content == manifest
    assert "team/copy:v1" in changes


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("said", "served"),
    [
        ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.manifest.v1+json"),
        ("text/html", "application/vnd.docker.distribution.manifest.v2+json"),
        ("text/html\r\nX: y", "application/vnd.docker.distribution.manifest.v2+json"),
        (7, "application/vnd.docker.distribution.manifest.v2+json"),
    ],
)
async def test_a_manifest_is_served_as_nothing_else(http: httpx.AsyncClient, said: object, served: str) -> None:
    """It says itself what it is, and whoever pushed it wrote that; a browser must not take it for a page of ours."""
    manifest = (await http.get("/v2/library/tiny/manifests/latest")).json()
    assert (await http.put("/v2/team/copy/manifests/v1", json={**manifest, "mediaType": said})).status_code == 201
    got = await http.get("/v2/team/copy/manifests/v1")
    assert (got.status_code, got.headers["content-type"]) == (200, served)


@pytest.mark.usefixtures("model")
async def test_a_manifest_that_is_none(http: httpx.AsyncClient) -> None:
    manifest = (await http.get("/v2/library/tiny/manifests/latest")).json()
    manifest["layers"][0]["digest"] = digest_of(b"missing")
    for content in (b"", b"{", b"[]", json.dumps(manifest).encode()):
        assert (await http.put("/v2/team/copy/manifests/v1", content=content)).status_code == 400
    assert (await http.put("/v2/team/copy/manifests/v1", content=b" " * (1 + (1 << 20)))).status_code == 413
    assert (await http.get("/v2/team/copy/manifests/v1")).status_code == 404
