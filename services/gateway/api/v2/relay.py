"""A request to the registry and back, streamed in both directions."""

import re
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import URL
from starlette.responses import Response

from libs.common.errors import InvalidModelName, InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.relayed import RelayedAnswer
from services.gateway.api.v2.words import VERSION

# No part starts with a dot and nothing needs quoting: a path means the same to whoever reads it next.
_SAFE_PATH: Final = re.compile(r"/v2(?:/[A-Za-z0-9_][A-Za-z0-9_.:-]*)+/?")
_SAFE_QUERY: Final = re.compile(r"[A-Za-z0-9_.:%/=&+~-]*")

_ASKED: Final = ("content-length", "content-range", "content-type", "if-range", "range")
_ANSWERED: Final = (
    "accept-ranges",
    "content-length",
    "content-range",
    "content-type",
    "docker-content-digest",
    "docker-upload-uuid",
    "etag",
    "link",
    "range",
)


def safe_path(call: Call) -> str:
    """Raises ``InvalidModelName``."""
    path = str(call.scope["path"])
    if not _SAFE_PATH.fullmatch(path):
        raise InvalidModelName
    return path


async def relay(call: Call, query: str | None = None) -> Response:
    """``query``: instead of the caller's."""
    path = safe_path(call)
    query = call.scope["query_string"].decode("latin-1") if query is None else query
    if not _SAFE_QUERY.fullmatch(query):
        raise InvalidRequest
    answer = await call.ctx.registry_http.ask(
        call.scope["method"],
        path,
        query=query,
        headers={name: call.headers[name] for name in _ASKED if name in call.headers},
        body=call.body,
    )
    return RelayedAnswer(answer, _ANSWERED, {**VERSION, **_location(call, answer.headers)})


def _location(call: Call, headers: Mapping[str, str]) -> dict[str, str]:
    """With our address in front: Ollama's client takes a path alone for an address without a host."""
    if "location" not in headers:
        return {}
    base = call.ctx.settings.public_url.rstrip("/") or str(URL(scope=call.scope).replace(path="", query=""))
    return {"Location": base + headers["location"]}
