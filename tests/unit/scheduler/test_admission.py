import base64
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from services.scheduler import admission
from services.scheduler.handlers.inference import MOST_HELD
from services.scheduler.settings import Settings
from services.scheduler.waiting import Waiting, WaitingSet
from tests.fixtures.builders import a_request

SETTINGS = Settings(secret_key=SecretStr(base64.b64encode(bytes(32)).decode()), max_waiting=8, max_waiting_tokens=1000)


def waiting(**changes: Any) -> Waiting:
    return Waiting(a_request(**changes), None, 0)


def full(new: Waiting, *others: Waiting) -> bool:
    waiting_set = WaitingSet()
    for other in others:
        waiting_set.add(other)
    return admission.full(new, waiting_set, SETTINGS)


def test_so_many_may_wait() -> None:
    assert not full(waiting(), *(waiting() for _ in range(7)))
    assert full(waiting(), *(waiting(priority="batch") for _ in range(8)))


def test_so_many_tokens_may_wait() -> None:
    assert not full(waiting(prompt_tokens=100), waiting(prompt_tokens=400, answer_tokens=500))
    assert full(waiting(prompt_tokens=101), waiting(prompt_tokens=400, answer_tokens=500))


def test_one_that_is_bigger_than_all_the_room_may_wait_alone() -> None:
    assert not full(waiting(prompt_tokens=5000))
    assert full(waiting(prompt_tokens=5000), waiting(prompt_tokens=1))


def test_idle_ones_have_a_quarter_beside_the_others() -> None:
    idle = [waiting(priority="idle") for _ in range(2)]
    assert full(waiting(priority="idle"), *idle)
    assert not full(waiting(priority="idle"), *(waiting() for _ in range(8)))
    assert not full(waiting(), *idle, *(waiting() for _ in range(7)))
    assert full(waiting(priority="idle", prompt_tokens=250), waiting(priority="idle", prompt_tokens=1))


@pytest.mark.parametrize(
    ("estimate", "deadline", "retry_after"),
    [(None, 10.0, None), (9.0, 10.0, None), (30.0, 10.0, 20.0), (10.1, 10.0, 1.0), (4000.0, 10.0, 300.0)],
)
def test_whose_turn_would_come_too_late_is_told_at_once(
    estimate: float | None, deadline: float, retry_after: float | None
) -> None:
    late = waiting(deadline=deadline)
    late.estimated_wait_seconds = estimate
    error = admission.hopeless(late, now=0.0)
    assert (error.retry_after if error else None) == retry_after


@pytest.mark.parametrize(("estimate", "retry_after"), [(None, 5.0), (0.01, 1.0), (42.0, 42.0), (9999.0, 300.0)])
def test_who_finds_no_room_learns_when_to_come_again(estimate: float | None, retry_after: float) -> None:
    assert admission.overloaded(estimate).retry_after == retry_after


def test_the_broker_delivers_more_than_may_wait() -> None:
    """Else nobody would be refused any more, and what a dead worker had run would not come back."""
    with pytest.raises(ValidationError):
        Settings(secret_key=SETTINGS.secret_key, max_waiting=int(MOST_HELD / (1 + admission.IDLE_SHARE)))
