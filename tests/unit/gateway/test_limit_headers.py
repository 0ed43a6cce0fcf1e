"""What is left of limits, as the clients of each dialect read it."""

import time

import pytest

from libs.common.contracts.auth.identity import AppliedLimits, Limits
from libs.common.limits.checks import DAY, MINUTE, Check
from libs.common.limits.store import State
from services.gateway.api.limit_headers import MOST_POLICIES, anthropic, openai, standard

APPLIED = AppliedLimits(scope="key", id="k", limits=Limits())


def requests(reset: float, left: int = 3) -> State:
    return State(Check("window", "requests", "key", 10, 1, APPLIED, MINUTE), left, 0.0, reset)


def of_the_day(left: int = 5) -> State:
    return State(Check("total", "tokens", "day", 50, 1, APPLIED, DAY), left, 0.0, 3600.0)


STREAMS = State(Check("streams", "streams", "streams", 2, 1, APPLIED, 0), 0, 1.0, 1.0)


def test_who_has_no_limits_is_told_of_none() -> None:
    assert [render([]) for render in (standard, openai, anthropic)] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "1m0s"),
        (0.0101, "11ms"),
        (0.999, "999ms"),
        (1.0, "1s"),
        (59.1, "1m0s"),
        (360.0, "6m0s"),
        (3599.5, "1h0m0s"),
        (86_399.0, "23h59m59s"),
        (2_678_400.0, "744h0m0s"),
    ],
)
def test_openai_resets_as_go_writes_durations(seconds: float, shown: str) -> None:
    assert openai([requests(seconds)])["x-ratelimit-reset-requests"] == shown


def test_of_each_unit_the_nearest_is_told() -> None:
    told = openai([of_the_day(1), requests(30.0, left=2), of_the_day(40), requests(30.0, left=9)])
    assert (told["x-ratelimit-remaining-tokens"], told["x-ratelimit-remaining-requests"]) == ("1", "2")


def test_streams_at_once_are_told_in_the_standard_alone() -> None:
    assert openai([STREAMS]) == anthropic([STREAMS]) == {}
    assert standard([STREAMS]) == {"RateLimit-Limit": "2", "RateLimit-Remaining": "0", "RateLimit-Reset": "1"}


def test_anthropic_resets_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.5)
    assert anthropic([of_the_day()]) == {
        "anthropic-ratelimit-tokens-limit": "50",
        "anthropic-ratelimit-tokens-remaining": "5",
        "anthropic-ratelimit-tokens-reset": "2023-11-14T23:13:21Z",
    }


def test_policies_are_bounded() -> None:
    told = standard([requests(1.0)] * (MOST_POLICIES + 5))
    assert len(told["RateLimit-Policy"].split(", ")) == MOST_POLICIES
