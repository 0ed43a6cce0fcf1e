"""What two people could overwrite carries its version as ``ETag``; ``If-Match`` makes a change depend on it."""

import re
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Header
from starlette.responses import Response

from libs.common.errors import InvalidRequest


class Versioned(Protocol):
    @property
    def version(self) -> int: ...


Found = TypeVar("Found", bound=Versioned)

ETAG = re.compile(r'(?:W/)?"(\d{1,9})"')


def tag(response: Response, version: int) -> None:
    response.headers["ETag"] = f'"{version}"'


def tagged(response: Response, found: Found) -> Found:
    tag(response, found.version)
    return found


async def _expected_version(if_match: Annotated[str | None, Header()] = None) -> int | None:
    """None: whatever it is now. Raises ``InvalidRequest`` for what is no ETag of ours."""
    if if_match is None or if_match.strip() == "*":
        return None
    match = ETAG.fullmatch(if_match.strip())
    if match is None:
        raise InvalidRequest('If-Match must be an ETag as it was sent: "7"')
    return int(match[1])


IfMatch = Annotated[int | None, Depends(_expected_version)]
"""The version that the caller has read; who changes another raises ``PreconditionFailed``."""
