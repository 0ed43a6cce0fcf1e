"""Before every door: who may ask at all (Host, Origin), from where, and what headers every response carries."""

import ipaddress
import re
import socket
import time
from functools import lru_cache
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.common import actor
from libs.common.runtime_config import RuntimeConfig
from services.gateway.api.proxies import Proxies
from services.gateway.settings import Settings

REQUEST_ID = "ollamamax.request_id"
"""Key in the ASGI scope."""

CAME_AT = "ollamamax.came_at"
"""Another: when its headers were here, by the monotonic clock."""

LONGEST_USER_AGENT = 300
MOST_HEADERS = 100
MOST_HEADER_BYTES = 32 * 1024

_GIVEN_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")

_LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")
DEFAULT_ORIGINS = (
    *(f"{scheme}://{name}{port}" for scheme in ("http", "https") for name in _LOCAL_NAMES for port in ("", ":*")),
    *(f"{scheme}://*" for scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file")),
)
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "Access-Control-Allow-Headers": (
        "Authorization,Content-Type,Content-Encoding,User-Agent,Accept,X-Requested-With,X-Api-Key,X-Request-Id,"
        "X-Deadline-Ms,If-Match,Idempotency-Key,Anthropic-Version,Anthropic-Beta,Anthropic-Dangerous-Direct-Browser-Access,"
        "OpenAI-Beta,OpenAI-Organization,OpenAI-Project,X-Client-Request-Id,X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,"
        "X-Stainless-Helper,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-OS,X-Stainless-Package-Version,"
        "X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
    ),
    "Access-Control-Max-Age": "43200",
}
EXPOSED_HEADERS = ",".join(
    (
        "X-Request-Id,Request-Id,ETag,Location,Retry-After,Retry-After-Ms,X-Queue-Position,X-Queue-Estimated-Wait-Ms",
        "RateLimit,RateLimit-Policy,RateLimit-Limit,RateLimit-Remaining,RateLimit-Reset,OpenAI-Processing-Ms,OpenAI-Version",
        *(f"X-RateLimit-{what}-{unit}" for unit in ("Requests", "Tokens") for what in ("Limit", "Remaining", "Reset")),
        *(
            f"Anthropic-RateLimit-{unit}-{what}"
            for unit in ("Requests", "Tokens")
            for what in ("Limit", "Remaining", "Reset")
        ),
    )
)
SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
"""For every answer that brings no policy of its own: none of them is a page."""
ONLY_TLS = (b"strict-transport-security", b"max-age=31536000")
NO_COPY = (b"cache-control", b"no-store")
"""For the platform: its answers tell of people and hold keys."""


class Guard:
    """Outermost. Browsers of foreign sites get 403 without a body, as from Ollama."""

    def __init__(self, app: ASGIApp, config: RuntimeConfig[Settings]) -> None:
        self._app = app
        self._config = config
        self._proxies = Proxies(config.current.trusted_proxies)
        self._check_host = config.current.on_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Before a proxy's word: a page on this machine, whose requests come from where a proxy's would, could forge it.
        foreign_host = self._check_host and not is_local_host(Headers(scope=scope).get("host", ""))
        self._proxies.see_through(scope)
        headers = Headers(scope=scope)
        scope[REQUEST_ID], scope[CAME_AT] = _request_id(headers), time.monotonic()
        actor.become(_stranger(scope, headers))
        host, origin = headers.get("host", ""), headers.get("origin")
        foreign_origin = origin is not None and not self._allows(origin, host)
        cross_origin = origin if origin not in (f"http://{host}", f"https://{host}") else None
        allowed_origin = None if foreign_origin else cross_origin

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), scope, allowed_origin)
            await send(message)

        if _too_many(scope):
            await Response(status_code=431)(scope, receive, send_with_headers)
        elif foreign_host or foreign_origin:
            await Response(status_code=403)(scope, receive, send_with_headers)
        elif scope["method"] == "OPTIONS" and cross_origin is not None:
            await Response(status_code=204, headers=PREFLIGHT_HEADERS)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _allows(self, origin: str, host: str) -> bool:
        same = origin in (f"http://{host}", f"https://{host}")
        more = self._config.current.origins
        return same or "*" in more or _matcher((*DEFAULT_ORIGINS, *more)).fullmatch(origin) is not None

    def _add_headers(self, headers: MutableHeaders, scope: Scope, allowed_origin: str | None) -> None:
        headers["X-Request-Id"] = scope[REQUEST_ID]
        headers.raw.extend(SAFE_HEADERS)
        if "content-security-policy" not in headers:
            headers.raw.append(NO_PAGE)
        if scope["scheme"] == "https":
            headers.raw.append(ONLY_TLS)
        if scope["path"].startswith("/api/v1/") and "cache-control" not in headers:
            headers.raw.append(NO_COPY)
        if allowed_origin is not None:
            any_origin = "*" in self._config.current.origins
            headers["Access-Control-Allow-Origin"] = "*" if any_origin else allowed_origin
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            if not any_origin:
                headers.add_vary_header("Origin")


def _request_id(headers: Headers) -> str:
    """The client's or a proxy's own, so that its logs and ours can be joined, if it can do no harm in a log."""
    given = headers.get("x-request-id", "")
    return given if _GIVEN_ID.fullmatch(given) else uuid4().hex


def _too_many(scope: Scope) -> bool:
    headers = scope["headers"]
    return len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > MOST_HEADER_BYTES


def _stranger(scope: Scope, headers: Headers) -> actor.Actor:
    """All that is known of a caller before its credentials are."""
    client = scope.get("client")
    return actor.Actor(
        ip=client[0] if client else "",
        user_agent=headers.get("user-agent", "")[:LONGEST_USER_AGENT],
        request_id=scope[REQUEST_ID],
    )


@lru_cache(maxsize=2)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(pattern).replace(r"\*", ".*") for pattern in patterns), re.IGNORECASE)


@lru_cache(maxsize=1024)
def is_local_host(host: str) -> bool:
    """Whether a Host header names this machine or its private network, which no name of a foreign web page does."""
    name = _without_port(host).lower().rstrip(".")
    if name in ("", "localhost", socket.gethostname().lower()) or name.endswith(LOCAL_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
