import pytest

from libs.common.errors import InvalidRequest
from services.registry.replicas import choose
from services.registry.store.replicas import StoredNode

NODES = [
    StoredNode("empty", 0, None),
    StoredNode("full", 1000, None),
    StoredNode("broken", 500, "failed"),
    StoredNode("loading", 2000, "syncing"),
    StoredNode("has-it", 3000, "ready"),
]


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (1, ["has-it"]),
        (2, ["has-it", "loading"]),
        (4, ["has-it", "loading", "broken", "empty"]),
        (5, ["has-it", "loading", "broken", "empty", "full"]),
    ],
)
def test_who_has_it_comes_first_then_who_has_room(count: int, chosen: list[str]) -> None:
    assert choose(NODES, count) == chosen


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="6 replicas were asked for, but the nodes are too few: 5"):
        choose(NODES, 6)
