"""Before every door: who may ask at all (Host, Origin), and the id every response carries."""

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import lru_cache
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.settings import Settings

REQUEST_ID = "ollamamax.request_id"
"""Key in the ASGI scope."""

_LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")
DEFAULT_ORIGINS = (
    *(f"{scheme}://{name}{port}" for scheme in ("http", "https") for name in _LOCAL_NAMES for port in ("", ":*")),
    *(f"{scheme}://*" for scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file")),
)
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "Access-Control-Allow-Headers": (
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,X-Api-Key,X-Request-Id,"
        "Anthropic-Version,Anthropic-Beta,OpenAI-Beta,X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,"
        "X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-OS,X-Stainless-Package-Version,"
        "X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
    ),
    "Access-Control-Max-Age": "43200",
}


class Guard:
    """Outermost. Browsers of foreign sites get 403 without a body, as from Ollama."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._origins = _matcher((*DEFAULT_ORIGINS, *settings.origins))
        self._any_origin = "*" in settings.origins
        self._check_host = settings.on_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID] = uuid4().hex
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        foreign_host = self._check_host and not is_local_host(host)
        foreign_origin = origin is not None and not self._allows(origin, host)
        cross_origin = origin if origin not in (f"http://{host}", f"https://{host}") else None
        allowed_origin = None if foreign_origin else cross_origin

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), scope[REQUEST_ID], allowed_origin)
            await send(message)

        if foreign_host or foreign_origin:
            await Response(status_code=403)(scope, receive, send_with_headers)
        elif scope["method"] == "OPTIONS" and cross_origin is not None:
            await Response(status_code=204, headers=PREFLIGHT_HEADERS)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _allows(self, origin: str, host: str) -> bool:
        same = origin in (f"http://{host}", f"https://{host}")
        return same or self._any_origin or self._origins.fullmatch(origin) is not None

    def _add_headers(self, headers: MutableHeaders, request_id: str, allowed_origin: str | None) -> None:
        headers["X-Request-Id"] = request_id
        if allowed_origin is not None:
            headers["Access-Control-Allow-Origin"] = "*" if self._any_origin else allowed_origin
            headers["Access-Control-Expose-Headers"] = "X-Request-Id"
            if not self._any_origin:
                headers.add_vary_header("Origin")


def _matcher(patterns: Iterable[str]) -> re.Pattern[str]:
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
