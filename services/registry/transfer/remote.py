"""Other registries over HTTP: a client of the protocol that Ollama's, Docker's and Hugging Face's speak.

Redirects are followed by hand, so that each hop is checked and a credential goes to the host it is for and no other.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import SecretStr
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from yarl import URL

from libs.common.errors import InvalidModelName, InvalidRequest, NotFound, ServiceError
from libs.common.public_hosts import AllowedHosts, CheckedResolver, SystemResolver
from services.registry import names
from services.registry.settings import Settings
from services.registry.transfer import challenges
from services.registry.transfer.challenges import Challenge

USER_AGENT: Final = "ollama/0.33.0 (ollamamax)"
"""Hugging Face serves its models in Ollama's format to who calls itself so."""

CONNECT_SECONDS: Final = 10.0
SHORT_REQUEST_SECONDS: Final = 60.0
HASHING_SECONDS: Final = 1800.0
READ_BUFFER_BYTES: Final = 1 << 19
MOST_HOPS: Final = 8
MOST_TOKEN_BYTES: Final = 1 << 16
LONGEST_ERROR: Final = 500

# Six tries without a byte in between, about a minute from first to last.
ATTEMPTS: Final = 6
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 20.0

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
FOLLOWED: Final = frozenset({"GET", "HEAD"})
TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})

Origin = tuple[str, str, int]
"""Scheme, host and port."""

Body = Callable[[], AsyncIterator[bytes] | bytes]
"""What is sent, from its beginning: with a token it may have to be sent again."""


class Interrupted(ServiceError):
    """the connection to the other registry broke"""


class Remotes:
    """What all repositories share: connections, the hosts that are allowed, credentials by origin."""

    def __init__(self, http: aiohttp.ClientSession, hosts: AllowedHosts, credentials: Mapping[str, SecretStr]) -> None:
        self.http = http
        self.patient = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=HASHING_SECONDS)
        self.hosts = hosts
        self._authorizations = {
            _origin(URL(host if "://" in host else f"https://{host}")): _authorization(secret.get_secret_value())
            for host, secret in credentials.items()
        }

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, resolver: AbstractResolver | None = None) -> AsyncIterator["Remotes"]:
        """``resolver``: instead of the system's, for tests."""
        hosts = AllowedHosts(settings.allow_private_hosts, "REGISTRY_ALLOW_PRIVATE_HOSTS")
        connector = aiohttp.TCPConnector(resolver=CheckedResolver(hosts, resolver or SystemResolver()), limit=0)
        # A transfer may take a day, but not be silent for long.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=settings.stall_seconds)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,
        ) as http:
            yield cls(http, hosts, settings.credentials)

    def repository(self, name: str, *, insecure: bool) -> "Remote":
        """Of this model. As with Ollama, ``insecure`` means plain http, unless the name says https.

        Raises ``InvalidModelName``, ``InvalidRequest`` for http without ``insecure``.
        """
        parsed = names.parse(name)
        scheme, separator, _ = name.strip().lower().partition("://")
        if not separator:
            scheme = "http" if insecure else "https"
        if scheme == "http" and not insecure:
            raise InvalidRequest("insecure protocol http")
        try:
            root = URL.build(scheme=scheme, authority=parsed.host)
        except ValueError:
            raise InvalidModelName from None
        if scheme not in {"http", "https"} or not root.host:
            raise InvalidModelName
        return Remote(self, root / "v2" / parsed.namespace / parsed.model)

    def authorization(self, url: URL) -> str | None:
        """The header that our credential for this host makes, if we have one."""
        return self._authorizations.get(_origin(url))


class Remote:
    """One repository of another registry. It keeps the token that it was given."""

    def __init__(self, remotes: Remotes, base: URL) -> None:
        self._remotes = remotes
        self._base = base
        self._authorization = remotes.authorization(base)
        self._renewing = asyncio.Lock()

    @property
    def base(self) -> URL:
        """``<scheme>://<host>/v2/<namespace>/<model>``"""
        return self._base

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        patient: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is no refusal; read it with ``chunks`` or ``read``. ``patient``: it takes a hash to answer.

        Raises ``NotFound``, ``Forbidden`` for a host that is not allowed, ``Interrupted`` where trying again may help,
        ``ServiceError`` for any other refusal.
        """
        timeout = self._remotes.patient if patient else self._remotes.http.timeout
        send = partial(self._send, method, headers=headers or {}, body=body, timeout=timeout)
        async with await self._follow(method, url, send) as response:
            await _check(response)
            yield response

    async def fetch(self, url: URL, most: int, headers: Mapping[str, str]) -> bytes:
        """A small document. Raises what ``request`` raises, ``ServiceError`` if it has more than ``most`` bytes."""
        try:
            async with asyncio.timeout(SHORT_REQUEST_SECONDS), self.request("GET", url, headers=headers) as response:
                return await read(response, most)
        except TimeoutError:
            raise Interrupted(f"no answer from {url.host} in {SHORT_REQUEST_SECONDS:g} s") from None

    async def _follow(
        self, method: str, url: URL, send: Callable[[URL], Awaitable[aiohttp.ClientResponse]]
    ) -> aiohttp.ClientResponse:
        renewed = False
        for _ in range(MOST_HOPS):
            used = self._authorization
            response = await send(url)
            if response.status == 401 and not renewed and self._is_own(url):
                response.release()
                renewed = True
                await self._renew(used, response)
            elif response.status in REDIRECTS and method in FOLLOWED:
                response.release()
                url = self.next_url(url, response.headers.get("Location", ""))
            else:
                return response
        raise ServiceError("too many redirects")

    async def _send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        body: Body | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        self._remotes.hosts.check_literal(url.host or "")
        if self._authorization is not None and self._is_own(url):
            headers = {**headers, "Authorization": self._authorization}
        with interruptions():
            return await self._remotes.http.request(
                method,
                url,
                headers=headers,
                data=None if body is None else body(),
                timeout=timeout,
                allow_redirects=False,
            )

    def next_url(self, url: URL, location: str) -> URL:
        """Where an answer from ``url`` sends us. Raises ``ServiceError`` for what is no place to go."""
        if not location:
            raise ServiceError(f"{url.host} does not say where to go on")
        try:
            target = url.join(URL(location))
        except ValueError:
            target = URL()
        safe = {"https"} if self._base.scheme == "https" else {"http", "https"}
        if target.scheme not in safe or not target.host:
            raise ServiceError(f"{url.host} redirects to a place that is not allowed")
        return target

    def _is_own(self, url: URL) -> bool:
        return _origin(url) == _origin(self._base)

    async def _renew(self, used: str | None, response: aiohttp.ClientResponse) -> None:
        """Get a token as the answer demands, unless another request did meanwhile."""
        challenge = challenges.parse(response.headers.get("WWW-Authenticate", ""))
        async with self._renewing:
            if self._authorization == used and challenge is not None:
                self._authorization = f"Bearer {await self._ask_for_token(challenge)}"

    async def _ask_for_token(self, challenge: Challenge) -> str:
        url = self.next_url(self._base, challenge.realm).update_query(challenge.query)
        self._remotes.hosts.check_literal(url.host or "")
        own = self._remotes.authorization(url)
        headers = {} if own is None else {"Authorization": own}
        try:
            async with asyncio.timeout(SHORT_REQUEST_SECONDS):
                with interruptions():
                    response = await self._remotes.http.get(url, headers=headers, allow_redirects=False)
                async with response:
                    await _check(response)
                    return challenges.token(await read(response, MOST_TOKEN_BYTES))
        except TimeoutError:
            raise Interrupted(f"no token from {url.host} in {SHORT_REQUEST_SECONDS:g} s") from None
        except NotFound:
            raise ServiceError(f"{url.host} gives no tokens") from None


def retrying() -> AsyncRetrying:
    """Again after ``Interrupted``, with growing pauses."""
    return AsyncRetrying(
        retry=retry_if_exception_type(Interrupted),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
        reraise=True,
    )


async def chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Raises ``Interrupted``, also if it ends early."""
    with interruptions():
        async for chunk in response.content.iter_any():
            yield chunk


async def read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Raises ``ServiceError`` if there is more than ``most`` bytes, ``Interrupted``."""
    content = bytearray()
    async for chunk in chunks(response):
        content += chunk
        if len(content) > most:
            raise ServiceError(f"{response.url.host} sent more than {most} bytes")
    return bytes(content)


@contextmanager
def interruptions() -> Iterator[None]:
    """What a network does to us, as ``Interrupted``."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
        raise Interrupted(str(error) or "the connection timed out") from error


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status in REDIRECTS:
        raise ServiceError(f"{response.url.host} redirects what is sent to it")
    if response.status < 400:
        return
    if response.status == 404:
        raise NotFound("file does not exist")
    if response.status == 401:
        raise ServiceError("unauthorized: access denied")
    with interruptions():
        said = (await response.content.read(LONGEST_ERROR)).decode(errors="replace")
    error = Interrupted if response.status in TRANSIENT else ServiceError
    raise error(f"{response.status}: {_printable(said)}")


def _printable(said: str) -> str:
    """On one line, without what would move a terminal's cursor."""
    return "".join(character for character in " ".join(said.split()) if character.isprintable())


def _origin(url: URL) -> Origin:
    return url.scheme, url.host or "", url.port or 0


def _authorization(credential: str) -> str:
    """``user:password`` or a token."""
    return f"Basic {b64encode(credential.encode()).decode()}" if ":" in credential else f"Bearer {credential}"
