from typing import Any

import pytest

from libs.common.contracts.worker import InferenceFinished
from libs.common.errors import ModelLoadFailed
from services.scheduler.breaker import AVOID_SECONDS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, OPENS_AFTER, Breaker
from tests.fixtures.builders import an_end


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


_moment = iter(range(1, 1_000_000))


def a_failure(**changes: Any) -> InferenceFinished:
    """Of a load that began after every earlier one had failed."""
    at = next(_moment)
    defaults = {
        "runner": "m",
        "outcome": "failed",
        "error_code": ModelLoadFailed.code,
        "error_message": "no such tensor",
        "granted_at": at,
        "finished_at": at + 0.5,
    }
    return an_end(**{**defaults, **changes})


def open_it(breaker: Breaker) -> None:
    for _ in range(OPENS_AFTER - 1):
        assert not breaker.hear(a_failure())
    assert breaker.hear(a_failure())


def test_a_model_that_fails_on_whatever_workers_is_refused_with_the_last_reason(breaker: Breaker) -> None:
    for number in range(OPENS_AFTER):
        assert breaker.refusal("m") is None
        breaker.hear(a_failure(worker_id=f"w{number}", error_message=f"reason {number}"))
    error = breaker.refusal("m")
    assert isinstance(error, ModelLoadFailed)
    assert "reason 2" in error.message
    assert error.retry_after == FIRST_PAUSE_SECONDS
    assert breaker.refusal("another") is None


def test_all_who_waited_for_one_load_are_one_failure(breaker: Breaker) -> None:
    for number in range(10):
        assert not breaker.hear(a_failure(granted_at=10 + number / 100, finished_at=11 + number / 100))
    assert breaker.refusal("m") is None


def test_only_a_failure_to_load_counts_and_a_success_makes_it_forgotten(breaker: Breaker) -> None:
    for _ in range(5):
        assert not breaker.hear(a_failure(error_code="engine_failed"))
        assert not breaker.hear(a_failure(runner=""))
    for _ in range(5):
        for _ in range(OPENS_AFTER - 1):
            breaker.hear(a_failure())
        breaker.hear(an_end(runner="m"))
    assert breaker.refusal("m") is None


def test_after_a_pause_one_request_tries(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now = FIRST_PAUSE_SECONDS - 0.1
    assert breaker.refusal("m") is not None
    clock.now = FIRST_PAUSE_SECONDS
    assert breaker.refusal("m") is None
    assert breaker.refusal("m") is not None
    breaker.hear(an_end(runner="m"))
    assert breaker.refusal("m") is None


def test_each_try_that_fails_doubles_the_pause_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    pause = FIRST_PAUSE_SECONDS
    for _ in range(10):
        clock.now += pause
        assert breaker.refusal("m") is None
        breaker.hear(a_failure())
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        error = breaker.refusal("m")
        assert error is not None
        assert error.retry_after == pause
    assert pause == LONGEST_PAUSE_SECONDS


def test_a_try_that_never_ends_is_followed_by_another(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now = FIRST_PAUSE_SECONDS
    assert breaker.refusal("m") is None
    clock.now *= 2
    assert breaker.refusal("m") is None


def test_where_it_failed_it_is_avoided_for_a_while(breaker: Breaker, clock: Clock) -> None:
    breaker.hear(a_failure(worker_id="w1"))
    assert breaker.avoids("w1", "m")
    assert not breaker.avoids("w2", "m")
    assert not breaker.avoids("w1", "another")
    clock.now = AVOID_SECONDS
    assert not breaker.avoids("w1", "m")


def test_where_it_runs_again_it_is_not_avoided(breaker: Breaker) -> None:
    breaker.hear(a_failure(worker_id="w1"))
    breaker.hear(an_end(worker_id="w1", runner="m"))
    assert not breaker.avoids("w1", "m")
