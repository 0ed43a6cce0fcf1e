from typing import Any

import pytest

from libs.common.contracts.inference import Priority, RunningRequest
from services.scheduler import preemption
from services.scheduler.fleet import Fleet
from services.scheduler.grants import Grant
from services.scheduler.preemption import Victim
from services.scheduler.waiting import Waiting
from tests.fixtures.builders import a_heartbeat, a_model, a_request

ECHO = a_model()


def running(name: str, priority: Priority, *, preemptible: bool = True, runner: str = ECHO.runner) -> RunningRequest:
    return RunningRequest(request_id=name, epoch=1, runner=runner, priority=priority, preemptible=preemptible)


def a_fleet(*entries: RunningRequest, **changes: Any) -> Fleet:
    """One worker, full; each entry was granted a second after the one before."""
    fleet = Fleet()
    defaults = {"slots": len(entries), "slots_per_model": len(entries), "running": entries}
    heartbeat = a_heartbeat(**{**defaults, **changes})
    fleet.hear(heartbeat.model_copy(update={"running": ()}), 0.0)
    for number, entry in enumerate(entries):
        fleet["w1"].grant(Grant(entry.request_id, 1, entry.runner, float(number)))
    fleet.hear(heartbeat, 1.0)
    return fleet


def waiting(name: str = "new", priority: Priority = "interactive", **changes: Any) -> Waiting:
    return Waiting(a_request(request_id=name, priority=priority, **changes), delivery=None, arrived_at=0.0)


def victims(fleet: Fleet, *asked: str) -> list[str]:
    return names(preemption.victims_of(fleet, asked))


def names(found: list[Victim]) -> list[str]:
    return [victim.grant.request_id for victim in found]


def pairs(fleet: Fleet, *those: Waiting, served: tuple[str, ...] = ()) -> dict[str, str]:
    found = preemption.pair(those, preemption.victims_of(fleet, ()), fleet, served)
    return {each.request.request_id: victim.grant.request_id for each, victim in found}


def test_idle_ones_leave_before_batch_ones_and_of_those_the_last_that_came() -> None:
    fleet = a_fleet(running("b1", "batch"), running("i1", "idle"), running("b2", "batch"), running("i2", "idle"))
    assert victims(fleet) == ["i2", "i1", "b2", "b1"]


def test_nobody_interactive_leaves_nor_who_has_not_got_on_nor_who_was_asked() -> None:
    fleet = a_fleet(running("a", "interactive"), running("b", "batch", preemptible=False), running("c", "batch"))
    assert victims(fleet) == ["c"]
    assert victims(fleet, "c") == []


def test_victims_alike_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def helps_nobody(_waiting: Waiting, victim: Victim, _fleet: Fleet) -> bool:
        looked.append(victim.grant.request_id)
        return False

    monkeypatch.setattr(preemption, "_helps", helps_nobody)
    fleet = a_fleet(running("b1", "batch"), running("i1", "idle"), running("b2", "batch"), running("i2", "idle"))
    assert pairs(fleet, waiting()) == {}
    assert looked == ["i2", "b2"]


def test_what_was_granted_again_meanwhile_is_another_attempt() -> None:
    fleet = a_fleet(running("b", "batch"))
    fleet["w1"].grant(Grant("b", 2, ECHO.runner, 5.0))
    assert victims(fleet) == []


def test_one_victim_for_each_that_waits() -> None:
    fleet = a_fleet(running("b1", "batch"), running("b2", "batch"), running("b3", "batch"))
    assert pairs(fleet, waiting("x"), waiting("y")) == {"x": "b3", "y": "b2"}
    assert pairs(fleet, waiting("x"), waiting("y"), served=("x",)) == {"y": "b3"}


def test_only_somebody_less_urgent_leaves() -> None:
    fleet = a_fleet(running("b", "batch"), running("i", "idle"))
    assert pairs(fleet, waiting("x", "batch"), waiting("y", "batch")) == {"x": "i"}
    assert pairs(fleet, waiting("x", "idle")) == {}


def test_another_model_takes_a_slot_of_the_worker_only_where_it_could_be_loaded() -> None:
    other = a_model(name="echo-other")
    fleet = a_fleet(running("b", "batch"), max_loaded_models=1)
    assert pairs(fleet, waiting("x", model=other)) == {"x": "b"}
    fleet = a_fleet(running("a", "interactive"), running("b", "batch"), max_loaded_models=1)
    assert pairs(fleet, waiting("x", model=other)) == {}, "the model is still in use by the other"


def test_a_worker_that_cannot_run_it_keeps_what_it_has() -> None:
    elsewhere = a_model(engine="openai_http", name="gpt")
    assert pairs(a_fleet(running("b", "batch")), waiting("x", model=elsewhere), waiting("y")) == {"y": "b"}
    assert pairs(a_fleet(running("b", "batch"), state="draining"), waiting("x")) == {}
