"""The registry's HTTP door: bytes that are too many for the bus, streamed through in either direction."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import orjson
import structlog
from yarl import URL

from libs.common import actor
from libs.common.errors import (
    ERRORS_BY_CODE,
    Conflict,
    InvalidRequest,
    NotFound,
    OutOfRange,
    ServiceError,
    Unavailable,
    rebuild,
)
from services.gateway.settings import Settings

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 60.0
"""A transfer that does not move for so long is given up, whoever it is that does not move."""

ANSWER_SECONDS: Final = 1800.0
"""After its last byte the registry reads a large upload once more, to check it, and sees it safely on the disk."""

MOST_TRANSFERS: Final = 256
"""At once; more wait for their turn."""

READ_BUFFER_BYTES: Final = 256 * 1024
LARGEST_ERROR_BYTES: Final = 64 * 1024

_BY_STATUS: Final[dict[int, type[ServiceError]]] = {
    400: InvalidRequest,
    404: NotFound,
    409: Conflict,
    416: OutOfRange,
    422: InvalidRequest,
}
"""For answers that do not say it in our words: those to HEAD, and those of the framework."""


class RegistryHttp:
    """aiohttp, because it hears an answer while it still sends, and asks before it sends (``Expect: 100-continue``)."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base.rstrip("/")
        self._session = session

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: AsyncIterator[bytes] | None = None,
    ) -> aiohttp.ClientResponse:
        """Its answer to the current actor, as soon as the headers are there; close it.

        ``path`` and ``query`` must be safe and quoted. Raises the ``ServiceError`` the registry answers with, and
        ``Unavailable`` if it is away or does not move.
        """
        said = {**(headers or {}), actor.HEADER: actor.encode(actor.current())}
        url = URL(f"{self._base}{path}{'?' if query else ''}{query}", encoded=True)
        try:
            async with asyncio.timeout(PAUSE_SECONDS) as patience:
                moving = None if body is None else _moving(body, patience)
                response = await self._session.request(
                    method, url, headers=said, data=moving, expect100=body is not None, allow_redirects=False
                )
                if response.status >= 400:
                    async with response:
                        raise await _failure(response)
                return response
        except TimeoutError:
            raise Unavailable("the transfer did not move for too long") from None
        except aiohttp.ClientError as error:
            raise Unavailable("the registry is away or broke off; please try again") from error


@asynccontextmanager
async def open_registry_http(settings: Settings) -> AsyncIterator[RegistryHttp]:
    # A connection for each transfer: one that an earlier upload left behind half read must not be used again.
    connector = aiohttp.TCPConnector(limit=MOST_TRANSFERS, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    headers = {"Authorization": f"Bearer {settings.blob_token.get_secret_value()}", "Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=headers,
        auto_decompress=False,
        read_bufsize=READ_BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield RegistryHttp(settings.registry_url, session)


async def _moving(body: AsyncIterator[bytes], patience: asyncio.Timeout) -> AsyncIterator[bytes]:
    """The same bytes; each one asked for renews our patience with both sides."""
    loop = asyncio.get_running_loop()
    async for chunk in body:
        yield chunk
        patience.reschedule(loop.time() + PAUSE_SECONDS)
    patience.reschedule(loop.time() + ANSWER_SECONDS)


async def _failure(response: aiohttp.ClientResponse) -> ServiceError:
    content = await response.content.read(LARGEST_ERROR_BYTES)
    try:
        error = orjson.loads(content)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        code = ""
    if response.status == 401:
        log.error("the registry does not know our token: GATEWAY_BLOB_TOKEN and REGISTRY_BLOB_TOKEN differ")
        return ServiceError()
    if code in ERRORS_BY_CODE:
        return rebuild(code, message)
    return _BY_STATUS.get(response.status, ServiceError)()
