from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.registry.transfer import parts
from services.registry.transfer.parts import Part


@settings(deadline=None)
@given(total=st.integers(1, 10_000), count=st.integers(1, 40), least=st.integers(1, 3000), more=st.integers(0, 3000))
def test_a_plan_covers_everything_once(total: int, count: int, least: int, more: int) -> None:
    plan = parts.plan(total, count, least, least + more)
    assert [part.offset for part in plan] == [sum(p.size for p in plan[:i]) for i in range(len(plan))]
    assert sum(part.size for part in plan) == total
    assert all(least <= part.size <= least + more for part in plan[:-1])
    assert 0 < plan[-1].size <= least + more
    assert len(plan) <= count or plan[0].size == least + more


def test_ollamas_bounds() -> None:
    sizes = {total: len(parts.plan(total, 16, 100, 1000)) for total in (0, 50, 100, 150, 1600, 16_000, 32_000)}
    assert sizes == {0: 0, 50: 1, 100: 1, 150: 2, 1600: 16, 16_000: 16, 32_000: 32}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    plan = [Part(0, 10, 10), Part(10, 5, 2)]
    parts.save(tmp_path / "state", plan)
    assert parts.load(tmp_path / "state", 15) == plan
    assert parts.completed(plan) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "nonsense", "{}", "[1]", "null", "\x00" * 100, '[{"offset": 0}]', '[{"offset": 0, "size": 14}]'),
        '[{"offset": 0, "size": 15, "completed": 16}]',
        '[{"offset": 0, "size": 15, "completed": -1}]',
        '[{"offset": 0, "size": 10}, {"offset": 9, "size": 5}]',
        '[{"offset": 0, "size": 15, "completed": 0, "more": 1}]',
        '[{"offset": 0, "size": "15"}]',
    ],
)
def test_what_is_no_state_of_this_blob_is_not_loaded(tmp_path: Path, content: str) -> None:
    (tmp_path / "state").write_text(content)
    assert parts.load(tmp_path / "state", 15) is None


def test_nothing_saved(tmp_path: Path) -> None:
    assert parts.load(tmp_path / "state", 15) is None
