"""Images by their address: from public hosts, hop by hop, within limits."""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from libs.common.errors import InvalidRequest
from libs.common.public_hosts import AllowedHosts
from services.gateway import image_fetch
from services.gateway.image_fetch import MOST_URLS, fetch_images, is_url

HERE = AllowedHosts(["localhost"])
"""And not 127.0.0.1, where it leads to."""


@pytest.fixture
async def site() -> AsyncIterator[str]:
    async with _running() as port:
        yield f"http://localhost:{port}"


@asynccontextmanager
async def _running() -> AsyncIterator[int]:
    async def image(_request: web.Request) -> web.Response:
        return web.Response(body=b"an image", content_type="image/png")

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="a page")

    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.query["to"]})

    async def failing(_request: web.Request) -> web.Response:
        raise web.HTTPForbidden

    app = web.Application()
    app.add_routes(
        [web.get("/image", image), web.get("/page", page), web.get("/to", elsewhere), web.get("/no", failing)]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        server = web.TCPSite(runner, "127.0.0.1", 0)
        await server.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("text", "expected"), [("http://x", True), ("HTTPS://x", True), ("aGk=", False), ("", False)])
def test_what_is_an_address(text: str, expected: bool) -> None:
    assert is_url(text) is expected


async def test_an_image_and_one_behind_redirects(site: str) -> None:
    urls = [f"{site}/image", f"{site}/to?to=/to?to=/image", f"{site}/image"]
    assert await fetch_images(urls, HERE) == dict.fromkeys(urls, b64encode(b"an image").decode())


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/page", "no image"),
        ("/no", "403"),
        ("/to?to=", "redirects"),
        ("/to?to=file:///etc/passwd", "no place on the web"),
        ("/to?to=http://127.0.0.1:1/image", "not on a public address"),
        ("/to?to=http://2130706433/image", "not on a public address"),
        ("/to?to=http://[::ffff:127.0.0.1]/image", "not on a public address"),
        ("/to?to=http://metadata.localhost/image", "not on a public address|cannot be reached"),
    ],
)
async def test_what_cannot_be_had(site: str, path: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await fetch_images([site + path], HERE)


async def test_nobody_inside_is_asked(site: str) -> None:
    for url in (f"{site}/image", f"{site}/image".replace("localhost", "127.0.0.1"), "http://169.254.169.254/image"):
        with pytest.raises(InvalidRequest, match="not on a public address"):
            await fetch_images([url])


async def test_limits(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="image URLs"):
        await fetch_images([f"{site}/image?{number}" for number in range(MOST_URLS + 1)], HERE)
    monkeypatch.setattr(image_fetch, "MOST_BYTES", 10)
    with pytest.raises(InvalidRequest, match="10 bytes"):
        await fetch_images([f"{site}/image?1", f"{site}/image?2"], HERE)
