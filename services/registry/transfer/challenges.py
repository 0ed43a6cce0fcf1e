"""``WWW-Authenticate: Bearer ...`` of registries, and the tokens that answer it. Pure."""

import json
import re
from dataclasses import dataclass
from typing import Any

from libs.common.errors import ServiceError

PARAMETER = re.compile(r'(\w+)="([^"]*)"')
TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Challenge:
    realm: str
    """Where tokens are given: a URL."""

    query: dict[str, str]


def parse(header: str) -> Challenge | None:
    """None if this is not about bearer tokens."""
    scheme, _, rest = header.strip().partition(" ")
    parameters = dict(PARAMETER.findall(rest))
    realm = parameters.get("realm")
    if scheme.lower() != "bearer" or not realm:
        return None
    return Challenge(realm, {key: parameters[key] for key in ("service", "scope") if key in parameters})


def token(answer: bytes) -> str:
    """Raises ``ServiceError`` if there is none that can be put in a header."""
    try:
        document: Any = json.loads(answer)
        found = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        found = None
    if not isinstance(found, str) or not TOKEN.fullmatch(found):
        raise ServiceError("the other registry gave no token")
    return found
