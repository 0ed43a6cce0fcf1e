"""Who leaves for one more model."""

from typing import cast

import pytest

from services.worker.engines.base import LoadedEngine
from services.worker.entry import Entry
from services.worker.room import Bounds, Room
from tests.fixtures.builders import a_model

GIB = 1 << 30


class FakeEngine:
    slots = 2


def an_entry(name: str, gib: int, idle_since: float = 0.0) -> Entry:
    model = a_model(name=name, weights=f"weights-of-{name}", size=gib * GIB)
    return Entry(model, cast(LoadedEngine, FakeEngine()), 100, 300, idle_since)


@pytest.mark.parametrize(
    ("available", "memory_bytes", "expected"),
    [(8, 0, 5), (8, 100, 5), (8, 4, 1), (1, 0, -2)],
)
def test_free_is_what_both_the_machine_and_the_setting_leave(available: int, memory_bytes: int, expected: int) -> None:
    room = Room(Bounds(3, memory_bytes * GIB, lambda: available * GIB))
    assert round(room.free_bytes([an_entry("a", 3)]) / GIB) == expected


def test_what_is_promised_is_not_free() -> None:
    room = Room(Bounds(3, available=lambda: 8 * GIB))
    room.promise("a", 5 * GIB)
    assert room.free_bytes([]) == 3 * GIB
    room.settle("a")
    assert room.free_bytes([]) == 8 * GIB


@pytest.mark.parametrize(
    ("needed", "available", "models", "expected"),
    [
        (1, 8, 3, []),
        (1, 8, 2, ["older"]),
        (3, 5, 3, ["older"]),
        (5, 5, 3, ["older", "newer"]),
        (9, 5, 3, None),
        (0, 0, 3, []),
        (0, 0, 0, None),
    ],
)
def test_those_idle_longest_leave(needed: int, available: int, models: int, expected: list[str] | None) -> None:
    idle = [an_entry("newer", 2, idle_since=2), an_entry("older", 2, idle_since=1)]
    room = Room(Bounds(models, available=lambda: available * GIB))
    going = room.evictions(needed * GIB, idle, idle)
    assert (None if going is None else [entry.model.name for entry in going]) == expected


def test_the_setting_bounds_what_all_take_together() -> None:
    room = Room(Bounds(9, 4 * GIB, lambda: 100 * GIB))
    entry = an_entry("a", 3)
    assert room.evictions(2 * GIB, [entry], []) is None
    assert room.evictions(2 * GIB, [entry], [entry]) == [entry]
