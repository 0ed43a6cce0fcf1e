import msgspec
import pytest

from libs.common.contracts.scheduler.decisions import Decision
from libs.common.contracts.scheduler.inference import AttemptRecord, RequestInference
from services.scheduler import decisions, placement
from services.scheduler.breaker import Breaker
from services.scheduler.fleet import Fleet
from services.scheduler.grants import Grant
from services.scheduler.reservation import Reservation
from services.scheduler.waiting import Waiting, WaitingSet
from tests.fixtures.builders import a_heartbeat, a_request

ANY = a_request()


def a_fleet(*granted: int) -> Fleet:
    """Workers w0, w1 and so on, each with so many grants."""
    fleet = Fleet()
    for number, grants in enumerate(granted):
        fleet.hear(a_heartbeat(worker_id=f"w{number}", node=f"n{number}", slots=4), now=0)
        for grant in range(grants):
            fleet[f"w{number}"].grant(Grant(f"r{number}-{grant}", 1, "m", 0))
    return fleet


def a_suspect(waiting: WaitingSet) -> Waiting:
    lost = AttemptRecord(epoch=1, worker_id="gone", granted_at=0, ended="worker_lost")
    suspect = Waiting(a_request(attempts=(lost, lost)), None, 0)
    waiting.put_back(suspect)
    assert suspect.lane.alone
    return suspect


def chosen(fleet: Fleet, request: RequestInference, alone: bool = False) -> str | None:
    worker = placement.place(request, fleet, alone=alone).worker
    return worker.id if worker else None


@pytest.mark.parametrize("size", [3, 40])
def test_who_must_run_alone_gets_a_worker_on_a_fleet_that_is_never_idle(size: int) -> None:
    fleet, waiting, reservation = a_fleet(*([2] * (size - 1)), 1), WaitingSet(), Reservation()
    suspect, least_busy = a_suspect(waiting), f"w{size - 1}"
    assert chosen(fleet, suspect.request, alone=True) is None
    reservation.make(suspect, fleet, Breaker())
    assert {chosen(fleet, ANY) for _ in range(20)} - {least_busy}
    assert least_busy not in {chosen(fleet, ANY) for _ in range(20)}
    fleet[least_busy].take_back(f"r{size - 1}-0")
    reservation.review(waiting, fleet)
    assert chosen(fleet, suspect.request, alone=True) == least_busy


def test_where_all_is_reserved_nobody_else_comes() -> None:
    fleet, waiting, reservation = a_fleet(1), WaitingSet(), Reservation()
    reservation.make(a_suspect(waiting), fleet, Breaker())
    assert chosen(fleet, ANY) is None


def test_one_worker_is_reserved_however_many_must_run_alone() -> None:
    fleet, waiting, reservation = a_fleet(1, 1, 1), WaitingSet(), Reservation()
    for _ in range(3):
        reservation.make(a_suspect(waiting), fleet, Breaker())
    assert [worker.id for worker in fleet if worker.reserved_for] == ["w0"]


def test_what_is_reserved_for_one_is_not_for_another() -> None:
    fleet, waiting, reservation = a_fleet(1), WaitingSet(), Reservation()
    first, second = a_suspect(waiting), a_suspect(waiting)
    reservation.make(first, fleet, Breaker())
    fleet["w0"].take_back("r0-0")
    assert chosen(fleet, second.request, alone=True) is None
    assert chosen(fleet, first.request, alone=True) == "w0"


def test_it_ends_when_its_request_waits_no_more() -> None:
    fleet, waiting, reservation = a_fleet(1), WaitingSet(), Reservation()
    suspect = a_suspect(waiting)
    reservation.make(suspect, fleet, Breaker())
    reservation.review(waiting, fleet)
    assert fleet["w0"].reserved_for
    waiting.remove(suspect.request.request_id)
    reservation.review(waiting, fleet)
    assert chosen(fleet, ANY) == "w0"


@pytest.mark.parametrize("leaves", ["silent", "draining"])
def test_when_its_worker_leaves_another_one_is_reserved(leaves: str) -> None:
    fleet, waiting, reservation = a_fleet(1, 2), WaitingSet(), Reservation()
    suspect = a_suspect(waiting)
    reservation.make(suspect, fleet, Breaker())
    if leaves == "silent":
        fleet.hear(a_heartbeat(worker_id="w1", node="n1", slots=4), now=2)
        fleet.remove_silent(now=4, silence_seconds=3)
    else:
        fleet.drain(["n0"])
    reservation.review(waiting, fleet)
    reservation.make(suspect, fleet, Breaker())
    assert [worker.id for worker in fleet if worker.reserved_for] == ["w1"]


def test_a_worker_that_could_not_run_it_is_not_reserved() -> None:
    fleet, waiting, reservation = a_fleet(1), WaitingSet(), Reservation()
    fleet.hear(a_heartbeat(worker_id="w0", node="n0", engines=("llama_cpp",), virtual_models=()), now=1)
    reservation.make(a_suspect(waiting), fleet, Breaker())
    assert fleet["w0"].reserved_for is None


def test_decisions_tell_of_it() -> None:
    fleet, waiting, reservation = a_fleet(1, 2), WaitingSet(), Reservation()
    suspect = a_suspect(waiting)
    reservation.make(suspect, fleet, Breaker())
    other = decided(fleet, Waiting(ANY, None, 0))
    assert {each.worker_id: each.refused_by for each in other.candidates} == {"w0": "not_reserved", "w1": None}
    fleet["w0"].take_back("r0-0")
    own = decided(fleet, suspect)
    assert own.chosen == "w0"
    assert own.candidates[0].facts["reserved"] == "it"


def decided(fleet: Fleet, waiting: Waiting) -> Decision:
    choice = placement.place(waiting.request, fleet, alone=waiting.lane.alone)
    return Decision.model_validate(msgspec.json.decode(decisions.compose(waiting, choice, {})))
