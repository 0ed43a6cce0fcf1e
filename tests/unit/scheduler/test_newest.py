import pytest

from libs.common.contracts.paging import PageRequest
from libs.common.errors import InvalidRequest
from services.scheduler.newest import newest

ITEMS = [(1.0, "a"), (3.0, "c"), (3.0, "d"), (2.0, "b")]


def pages(limit: int) -> list[list[str]]:
    found, cursor = [], ""
    while True:
        page = newest(ITEMS, PageRequest(limit=limit, cursor=cursor), lambda item: item)
        found.append([name for _, name in page.items])
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1, [["d"], ["c"], ["b"], ["a"]]), (3, [["d", "c", "b"], ["a"]]), (4, [["d", "c", "b", "a"]])],
)
def test_the_newest_first_each_once(limit: int, expected: list[list[str]]) -> None:
    assert pages(limit) == expected


def test_a_cursor_of_another_list() -> None:
    with pytest.raises(InvalidRequest):
        newest(ITEMS, PageRequest(cursor="WzFd"), lambda item: item)
