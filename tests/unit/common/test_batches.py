"""What is written in batches is acknowledged after it is written; one bad item does not keep the others."""

from collections.abc import Sequence

import pytest

from libs.common import batches
from libs.common.batches import Batches
from libs.common.errors import Unavailable
from tests.fixtures.batches import written


class Table:
    """Takes numbers, but not 13; away for the first ``away`` times."""

    def __init__(self, away: int = 0) -> None:
        self.rows: list[int] = []
        self.sizes: list[int] = []
        self.away = away

    async def write(self, items: Sequence[int]) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable
        if 13 in items:
            raise ValueError("an unlucky number")
        self.sizes.append(len(items))
        self.rows += items


async def test_batches_are_no_larger_than_asked() -> None:
    table = Table()
    assert await written(Batches("numbers", table.write, 3), range(7)) == ["ack"] * 7
    assert table.rows == list(range(7))
    assert table.sizes == [3, 3, 1]


async def test_what_cannot_be_written_goes_alone() -> None:
    table = Table()
    answers = await written(Batches("numbers", table.write, 10), [1, 13, 2])
    assert table.rows == [1, 2]
    assert answers == ["ack", "ValueError: an unlucky number", "ack"]


async def test_a_table_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PAUSE_SECONDS", 0.01)
    table = Table(away=3)
    assert await written(Batches("numbers", table.write, 10), [1, 2]) == ["ack", "ack"]
    assert table.rows == [1, 2]
