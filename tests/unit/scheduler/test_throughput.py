import pytest

from services.scheduler.throughput import Throughput


def after(*took: float, now: float = 1000.0) -> Throughput:
    """Such requests have taken so long until now."""
    throughput = Throughput()
    for number, seconds in enumerate(took):
        throughput.started("m", f"old{number}", now - seconds)
        throughput.ended(f"old{number}", now)
    return throughput


def test_nobody_can_tell_before_something_ended_and_something_runs() -> None:
    throughput = Throughput()
    assert throughput.wait_seconds("m", 0, 0) is None
    throughput.started("m", "a", 0)
    assert throughput.wait_seconds("m", 0, 1) is None
    throughput.ended("a", 1)
    assert throughput.wait_seconds("m", 0, 1) is None
    throughput.started("m", "b", 1)
    assert throughput.wait_seconds("m", 0, 1) == 1
    assert throughput.wait_seconds("other", 0, 1) is None


@pytest.mark.parametrize(("ahead", "expected"), [(0, 4), (1, 9), (2, 14), (3, 19)])
def test_two_slots_become_free_in_turn(ahead: int, expected: float) -> None:
    throughput = after(10, 10)
    throughput.started("m", "a", 994)
    throughput.started("m", "b", 999)
    assert throughput.wait_seconds("m", ahead, 1000) == pytest.approx(expected)


def test_what_has_run_for_long_is_compared_with_such_as_took_longer() -> None:
    throughput = after(1, 1, 20)
    throughput.started("m", "a", 995)
    assert throughput.wait_seconds("m", 0, 1000) == pytest.approx(15)


def test_what_outlasts_all_others_may_end_soon() -> None:
    throughput = after(2, 4)
    throughput.started("m", "a", 900)
    assert throughput.wait_seconds("m", 0, 1000) == pytest.approx(1.5)


def test_what_was_handed_back_tells_nothing_of_how_long_requests_take() -> None:
    throughput = after(10)
    throughput.started("m", "a", 999)
    throughput.dropped("a")
    assert throughput.wait_seconds("m", 0, 1000) is None
    throughput.ended("a", 1000)
    throughput.started("m", "b", 1000)
    assert throughput.wait_seconds("m", 0, 1000) == 10
