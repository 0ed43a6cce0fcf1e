"""Pages of what is in memory, newest first, with the same cursors as what is in tables."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from libs.common.contracts.paging import Page, PageRequest
from libs.common.paging import decode, page

Item = TypeVar("Item")


def newest(items: Iterable[Item], paging: PageRequest, key: Callable[[Item], tuple[float, str]]) -> Page[Item]:
    """``key``: seconds since the epoch, then an id. Raises ``InvalidRequest`` for a cursor that is none of ours."""
    before = decode(paging.cursor, float, str)
    rows = sorted((item for item in items if before is None or key(item) < before), key=key, reverse=True)
    return page(rows[: paging.limit + 1], paging, lambda item: item, key)
