import pytest

from libs.common.contracts.tokens import Frame, Logprob, StreamEnd
from libs.common.contracts.worker import RunInference
from services.worker.attempt import Attempt
from tests.fixtures.builders import a_request


@pytest.mark.parametrize(
    ("first_token_at", "now", "preemptible"),
    [(None, 100.0, False), (0.1, 1.0, False), (0.1, 1.2, True), (5.0, 7.0, False), (5.0, 10.0, True)],
    ids=["no token yet", "too early", "got on", "took long to come back", "was worth coming back"],
)
def test_what_has_got_on_may_be_preempted(first_token_at: float | None, now: float, preemptible: bool) -> None:
    attempt = Attempt(RunInference(request=a_request(), epoch=1, granted_at=0.0), stage="producing", began_at=0.0)
    attempt.first_token_at = first_token_at
    assert attempt.preemptible(now) == preemptible
    attempt.stage = "ending"
    assert not attempt.preemptible(now)


def test_what_can_only_be_replayed_is_paid_for_by_its_frames() -> None:
    attempt = Attempt(RunInference(request=a_request(), epoch=2, granted_at=0.0))
    attempt.go_on_after(
        [
            Frame("r", 1, 1, thinking="let me see"),
            Frame("r", 1, 2, text="two words", logprobs=[Logprob("two", -1.0), Logprob(" words", -1.0)]),
            Frame("r", 1, 3, tool_calls=[{}]),
            Frame("r", 1, 4, end=StreamEnd()),
        ]
    )
    assert attempt.usage_so_far().completion_tokens == 4
    attempt.spent.completion_tokens = 3  # made again so far
    assert attempt.usage_so_far().completion_tokens == 4
    attempt.go_on_after([Frame("r", 1, 1, text="three words here", token_ids=[1, 2, 3])])
    assert attempt.usage_so_far().completion_tokens == 3
