from typing import Any

from libs.common.contracts.scheduler.inference import AttemptRecord
from services.scheduler.waiting import Lane, Waiting, WaitingSet
from tests.fixtures.builders import a_model, a_request

OTHER = a_model(name="other")


def waiting(name: str, **changes: Any) -> Waiting:
    return Waiting(a_request(request_id=name, **changes), delivery=None, arrived_at=0)


def a_set(*entries: Waiting) -> WaitingSet:
    waiting_set = WaitingSet()
    for entry in entries:
        waiting_set.add(entry)
    return waiting_set


def names(waiting_set: WaitingSet) -> list[str]:
    return [entry.request.request_id for entry in waiting_set.in_order()]


def next_name(waiting_set: WaitingSet, *blocked: Lane) -> str | None:
    entry = waiting_set.next_one(blocked)
    return entry.request.request_id if entry is not None else None


def test_first_come_first_served_within_a_class() -> None:
    waiting_set = a_set(
        waiting("idle", priority="idle"),
        waiting("b1", priority="batch"),
        waiting("i1"),
        waiting("b2", priority="batch"),
        waiting("i2"),
    )
    assert names(waiting_set) == ["i1", "i2", "b1", "b2", "idle"]


def test_what_a_lost_worker_ran_goes_before_everybody() -> None:
    waiting_set = a_set(waiting("new"))
    for name in ("r1", "r2"):
        waiting_set.put_back(waiting(name, priority="batch"))
    assert names(waiting_set) == ["r1", "r2", "new"]
    assert next_name(waiting_set) == "r1"


def test_what_was_preempted_goes_before_the_rest_of_its_flow_only() -> None:
    waiting_set = a_set(waiting("i"), waiting("b1", priority="batch"))
    waiting_set.put_back(waiting("b0", priority="batch"), preempted=True)
    assert names(waiting_set) == ["i", "b0", "b1"]


def test_a_blocked_lane_holds_up_no_other() -> None:
    waiting_set = a_set(waiting("a"), waiting("b", model=OTHER, priority="batch"))
    waiting_set.put_back(waiting("r"))
    lane = Lane(a_model().runner)
    assert next_name(waiting_set, lane) == "b"
    assert next_name(waiting_set, lane, Lane(OTHER.runner)) is None


def test_a_suspect_has_a_lane_of_its_own() -> None:
    lost = tuple(AttemptRecord(epoch=n, worker_id="w", granted_at=0, ended="worker_lost") for n in (1, 2))
    waiting_set = a_set(waiting("suspect", attempts=lost), waiting("other", organization_id="b"))
    assert next_name(waiting_set, Lane(a_model().runner, alone=True)) == "other"
    assert waiting_set.waiting_for(a_model().runner) == 2


def test_removal_by_id() -> None:
    waiting_set = a_set(waiting("a", prompt_tokens=3))
    assert "a" in waiting_set
    assert (waiting_set.count("interactive"), waiting_set.tokens("interactive")) == (1, 3)
    assert waiting_set.remove("a") is not None
    assert waiting_set.remove("a") is None
    assert len(waiting_set) == waiting_set.count("interactive") == waiting_set.tokens("interactive") == 0


def test_what_comes_twice_is_there_once() -> None:
    waiting_set = a_set(waiting("a"), waiting("a"))
    waiting_set.put_back(waiting("a"))
    assert names(waiting_set) == ["a"]
    assert len(waiting_set) == 1


def test_what_has_expired_is_taken_out() -> None:
    waiting_set = a_set(waiting("late", deadline=10), waiting("gone", deadline=5), waiting("early", deadline=30))
    waiting_set.remove("gone")
    assert [entry.request.request_id for entry in waiting_set.take_expired(20)] == ["late"]
    assert names(waiting_set) == ["early"]
    assert waiting_set.take_expired(20) == []


def test_positions_as_if_all_organizations_stood_level() -> None:
    waiting_set = a_set(*(waiting(f"a{n}", organization_id="a") for n in range(10)))
    assert waiting_set.position("a9") == 10
    waiting_set.add(waiting("b0", organization_id="b"))
    assert waiting_set.position("b0") == 2
    waiting_set.add(waiting("c", organization_id="c", priority="batch"))
    assert waiting_set.position("c") == 12
    waiting_set.add(waiting("x", model=OTHER))
    assert waiting_set.position("x") == 1


def test_one_that_was_sent_as_batch_stays_one_in_the_count() -> None:
    waiting_set = a_set(waiting("b", priority="batch", accepted_at=0.0), waiting("i"))
    waiting_set.age(accepted_before=1.0)
    assert (waiting_set.count("batch"), waiting_set.count("interactive")) == (1, 1)
    assert waiting_set.position("i") <= 2


def test_one_that_was_preempted_keeps_nobody_older_young() -> None:
    waiting_set = a_set(*(waiting(name, priority="batch", accepted_at=1.0) for name in ("old", "older")))
    waiting_set.put_back(waiting("young", priority="batch", accepted_at=9.0), preempted=True)
    waiting_set.age(accepted_before=5.0)
    waiting_set.add(waiting("i"))
    assert names(waiting_set)[-1] == "young"


def test_what_has_been_granted_before_is_known_wherever_it_waits() -> None:
    granted = (AttemptRecord(epoch=1, worker_id="w", granted_at=0, ended="preempted"),)
    waiting_set = a_set(waiting("new"), waiting("came again", attempts=granted))
    waiting_set.put_back(waiting("lost", attempts=granted))
    waiting_set.put_back(waiting("preempted", attempts=granted), preempted=True)
    waiting_set.put_back(waiting("unsure"))
    assert {each.request.request_id for each in waiting_set.attempted()} == {"came again", "lost", "preempted"}
    waiting_set.remove("lost")
    waiting_set.add(waiting("preempted"))
    assert [each.request.request_id for each in waiting_set.attempted()] == ["came again"]


def test_who_waits_of_each_organization() -> None:
    waiting_set = a_set(waiting("a1"), waiting("a2"), waiting("b1", organization_id="b"))
    waiting_set.remove("a1")
    found = [(name, count, first.request.request_id) for name, count, first in waiting_set.by_organization()]
    assert found == [("default", 1, "a2"), ("b", 1, "b1")]
