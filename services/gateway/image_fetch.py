"""Images that a request names by their address, fetched from public hosts and from no others."""

import asyncio
from base64 import b64encode
from collections.abc import Iterable
from typing import Final

import aiohttp
from yarl import URL

from libs.common.errors import InvalidRequest, ServiceError
from libs.common.public_hosts import AllowedHosts, CheckedResolver, SystemResolver

MOST_URLS: Final = 10
MOST_BYTES: Final = 20 * 1024 * 1024
"""Of all images of a request together."""

ALL_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0
MOST_REDIRECTS: Final = 3
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
PUBLIC: Final = AllowedHosts()


def is_url(image: str) -> bool:
    """It is to be fetched, not decoded."""
    return image[:8].lower().startswith(("http://", "https://"))


async def fetch_images(urls: Iterable[str], hosts: AllowedHosts = PUBLIC) -> dict[str, str]:
    """Each image in base64, by its address. Raises ``InvalidRequest``: clients named what we cannot have."""
    wanted = list(dict.fromkeys(urls))
    if len(wanted) > MOST_URLS:
        raise InvalidRequest(f"a request must not have more than {MOST_URLS} image URLs")
    connector = aiohttp.TCPConnector(resolver=CheckedResolver(hosts, SystemResolver()))
    try:
        async with (
            asyncio.timeout(ALL_SECONDS),
            aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=ALL_SECONDS, sock_connect=CONNECT_SECONDS),
                headers={"Accept": "image/*", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            ) as http,
        ):
            return await _fetch_all(http, wanted, hosts)
    except ServiceError as error:
        raise InvalidRequest(f"the image cannot be fetched: {error.message}") from None
    except TimeoutError:
        raise InvalidRequest("the image cannot be fetched: it takes too long") from None
    except (aiohttp.ClientError, OSError, ValueError):
        raise InvalidRequest("the image cannot be fetched: its host cannot be reached") from None


async def _fetch_all(http: aiohttp.ClientSession, urls: Iterable[str], hosts: AllowedHosts) -> dict[str, str]:
    images, room = {}, MOST_BYTES
    for url in urls:
        content = await _fetch(http, URL(url), hosts, room)
        room -= len(content)
        images[url] = (await asyncio.to_thread(b64encode, content)).decode()
    return images


async def _fetch(http: aiohttp.ClientSession, url: URL, hosts: AllowedHosts, most: int) -> bytes:
    """Redirects are followed by hand, so that each hop is checked."""
    for _ in range(1 + MOST_REDIRECTS):
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidRequest("this is no place on the web")
        hosts.check_literal(url.host)
        async with http.get(url, allow_redirects=False) as response:
            if response.status not in REDIRECTS:
                return await _content(response, most)
            url = url.join(URL(response.headers.get("Location", "")))
    raise InvalidRequest("too many redirects")


async def _content(response: aiohttp.ClientResponse, most: int) -> bytes:
    if response.status != 200:
        raise InvalidRequest(f"{response.url.host} answers {response.status}")
    if not response.content_type.startswith("image/"):
        raise InvalidRequest(f"what {response.url.host} sends is no image")
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > most:
            raise InvalidRequest(f"the images of a request must not have more than {MOST_BYTES} bytes")
    return bytes(content)
