from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.prefixes import MOST_HOLDERS, MOST_OF_ONE_MODEL, Prefixes


def test_a_worker_is_known_by_the_longest_beginning_it_shares() -> None:
    prefixes = Prefixes()
    prefixes.remember("w", "m", (1, 2, 3))
    assert prefixes.matched("w", "m", (1, 2, 3, 4)) == 3
    assert prefixes.matched("w", "m", (1, 2, 9)) == 2
    assert prefixes.matched("w", "m", (9, 10)) == 0
    assert prefixes.matched("w", "another", (1, 2)) == 0
    assert prefixes.matched("stranger", "m", (1, 2)) == 0


def test_holders_of_the_most_come_first() -> None:
    prefixes = Prefixes()
    prefixes.remember("short", "m", (1,))
    prefixes.remember("long", "m", (1, 2))
    assert prefixes.holders((1, 2, 3)) == ["long", "short"]


def test_of_a_popular_beginning_a_few_holders_are_told() -> None:
    prefixes = Prefixes()
    for number in range(2 * MOST_HOLDERS):
        prefixes.remember(str(number), "m", (1,))
    assert len(prefixes.holders((1,))) == MOST_HOLDERS


def test_what_leaves_memory_is_forgotten_everywhere() -> None:
    prefixes = Prefixes()
    prefixes.remember("w", "m", (1, 2))
    prefixes.remember("w", "n", (3,))
    prefixes.keep_only("w", {"n"})
    assert prefixes.holders((1, 2)) == []
    assert prefixes.matched("w", "n", (3,)) == 1
    prefixes.forget("w")
    assert prefixes.holders((3,)) == []
    prefixes.forget("w")


def test_the_longest_unused_and_longest_beginnings_are_forgotten_first() -> None:
    prefixes = Prefixes()
    prefixes.remember("w", "m", (1, 2))
    prefixes.remember("w", "m", tuple(range(10, 9 + MOST_OF_ONE_MODEL)))
    assert prefixes.matched("w", "m", (1, 2)) == 1
    assert prefixes.holders((2,)) == []


@given(st.lists(st.tuples(st.sampled_from("vw"), st.integers(0, 400), st.integers(1, 600)), max_size=12))
def test_who_has_a_beginning_has_every_shorter_one(uses: list[tuple[str, int, int]]) -> None:
    """So that a search may halve: a long prompt costs a few look-ups."""
    prefixes = Prefixes()
    for worker, first, length in uses:
        prefixes.remember(worker, "m", _beginnings(first, length))
    for worker, first, length in uses:
        prompt = _beginnings(first, length)
        holds = [worker in prefixes.holders((beginning,)) for beginning in prompt]
        assert holds == sorted(holds, reverse=True)
        assert prefixes.matched(worker, "m", prompt) == sum(holds)


def _beginnings(prompt: int, length: int) -> tuple[int, ...]:
    """Prompts 0 to 9, 10 to 19, ... differ after as many blocks as the last digit says."""
    return tuple((prompt // 10 if block <= prompt % 10 else 100 + prompt) * 1000 + block for block in range(length))
