from libs.common.contracts.inference import Priority
from services.scheduler.waiting import Waiting, WaitingSet
from tests.fixtures.builders import a_request


def waiting(name: str, priority: Priority = "interactive") -> Waiting:
    return Waiting(a_request(request_id=name, priority=priority), delivery=None, arrived_at=0)


def names(waiting_set: WaitingSet) -> list[str]:
    return [entry.request.request_id for entry in waiting_set]


def test_first_come_first_served_within_a_priority() -> None:
    waiting_set = WaitingSet()
    for name, priority in (("b1", "batch"), ("i1", "interactive"), ("b2", "batch"), ("i2", "interactive")):
        waiting_set.add(waiting(name, priority))  # type: ignore[arg-type]
    assert names(waiting_set) == ["i1", "i2", "b1", "b2"]


def test_what_a_lost_worker_ran_goes_first() -> None:
    waiting_set = WaitingSet()
    waiting_set.add(waiting("new"))
    waiting_set.put_back(waiting("returned", "batch"))
    assert names(waiting_set) == ["returned", "new"]


def test_removal_by_id() -> None:
    waiting_set = WaitingSet()
    waiting_set.add(waiting("a"))
    assert "a" in waiting_set
    assert waiting_set.remove("a") is not None
    assert waiting_set.remove("a") is None
    assert len(waiting_set) == 0
