"""Cursors: the sort key of the last row of a page, as text that callers hand back and need not understand."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from libs.common.contracts.paging import Page, PageRequest
from libs.common.errors import InvalidRequest

Row = TypeVar("Row")
Item = TypeVar("Item")
Id = TypeVar("Id")


def encode(*key: str | float) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode()


def decode(cursor: str, *types: type) -> tuple[str | float, ...] | None:
    """The key, whose parts have these types; None for no cursor. Raises ``InvalidRequest`` for what is none of ours."""
    if not cursor:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor))
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidRequest("cursor is not one") from None
    if not isinstance(key, list) or len(key) != len(types) or not all(map(_fits, key, types)):
        raise InvalidRequest("cursor is not one")
    return tuple(key)


def _fits(part: object, kind: type) -> bool:
    """Texts as they are in keys: Postgres takes no NUL, and UTF-8 no half of a character."""
    return isinstance(part, kind) and (not isinstance(part, str) or part.isprintable())


def decode_newest(cursor: str, parse_id: Callable[[str], Id]) -> tuple[datetime | None, Id | None]:
    """For lists newest first, whose key is (seconds since the epoch, id): where the page before ended, if any.

    ``parse_id`` raises ``ValueError``. Raises ``InvalidRequest`` for what is no cursor of ours.
    """
    key = decode(cursor, float, str)
    if key is None:
        return None, None
    try:
        return datetime.fromtimestamp(float(key[0]), UTC), parse_id(str(key[1]))
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest("cursor is not one") from None


def page(
    rows: Sequence[Row], request: PageRequest, show: Callable[[Row], Item], key: Callable[[Row], Sequence[str | float]]
) -> Page[Item]:
    """Of ``rows`` that were asked for with ``request.limit + 1``: one too many tells that there is a next page."""
    shown = rows[: request.limit]
    more = len(rows) > request.limit
    return Page(items=tuple(map(show, shown)), next_cursor=encode(*key(shown[-1])) if more else None)
