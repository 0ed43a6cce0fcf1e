from dataclasses import dataclass

import pytest

from libs.common.contracts.scheduler.inference import AttemptEnd, AttemptRecord, RequestInference
from libs.common.contracts.worker import RunInference
from services.scheduler import decisions
from services.scheduler.blame import SHAKEN_SECONDS, Link, acquit, of_returned_lease, of_silence
from services.scheduler.fleet import Fleet, Worker
from services.scheduler.grants import Grant
from services.scheduler.waiting import Waiting
from tests.fixtures.builders import a_heartbeat, a_request

NOW = 1000.0
CLOCK = 50.0


@dataclass
class ABus:
    connections: int = 1
    connected: bool = True


def lost_at(ended_at: float, ended: AttemptEnd = "worker_lost") -> RequestInference:
    attempt = AttemptRecord(epoch=1, worker_id="w1", granted_at=0.0, ended_at=ended_at, ended=ended)
    return a_request(attempts=(attempt,))


def heard(seconds_ago: float) -> Fleet:
    fleet = Fleet()
    fleet.hear(a_heartbeat(), CLOCK - seconds_ago)
    return fleet


def ended(request: RequestInference, fleet: Fleet) -> AttemptEnd | None:
    return acquit(request, fleet, NOW, CLOCK).attempts[-1].ended


def test_a_worker_that_still_speaks_was_not_killed() -> None:
    assert ended(lost_at(NOW - 5), heard(1)) == "broker_lost"


def test_last_words_are_not_life() -> None:
    assert ended(lost_at(NOW - 5), heard(4.5)) == "worker_lost"
    assert ended(lost_at(NOW - 5), Fleet()) == "worker_lost"


def test_a_worker_that_had_no_time_was_not_killed_either() -> None:
    assert ended(lost_at(NOW - 5, "worker_silent"), heard(1)) == "broker_lost"
    assert ended(lost_at(NOW - 5, "worker_silent"), Fleet()) == "worker_silent"


def test_a_dead_engine_stays_what_it_is() -> None:
    assert ended(lost_at(NOW - 5, "engine_failed"), heard(1)) == "engine_failed"


@pytest.mark.parametrize(
    ("taken", "age_seconds", "why"),
    [(True, 60.0, "worker_lost"), (False, 0.4, "worker_lost"), (False, 2.1, "not_taken"), (None, 2.1, "not_taken")],
    ids=["ran", "died with it at once", "lay in the queue of a dead worker", "lay in the queue of one that has left"],
)
def test_a_lease_that_nobody_took_is_not_its_fault(taken: bool | None, age_seconds: float, why: AttemptEnd) -> None:
    grant = None if taken is None else Grant("r", 1, "m", 0.0, taken=taken)
    assert of_returned_lease(a_lease(), grant, age_seconds) == why


def a_lease(*earlier: AttemptEnd) -> RunInference:
    attempts = tuple(AttemptRecord(epoch=1, worker_id="w", granted_at=0.0, ended=ended) for ended in (*earlier, None))
    return RunInference(request=a_request(attempts=attempts), epoch=1, granted_at=0.0)


def test_what_kills_its_worker_before_that_could_tell_is_found_out() -> None:
    earlier: list[AttemptEnd] = []
    for _ in range(5):
        earlier.append(of_returned_lease(a_lease(*earlier), None, 2.1))
    assert earlier == ["not_taken", "not_taken", "not_taken", "worker_lost", "worker_lost"]


def test_a_worker_that_was_silent_already_was_not_silenced_by_what_came_then() -> None:
    worker = Worker(a_heartbeat(), heard_at=10.0)
    assert of_silence(worker, Grant("r", 1, "m", granted_at=12.0)) == "not_taken"
    assert of_silence(worker, Grant("r", 1, "m", granted_at=10.5)) == "worker_silent"
    assert of_silence(worker, Grant("r", 1, "m", granted_at=12.0, taken=True)) == "worker_silent"


def test_only_losses_count_and_two_of_them_make_a_suspect() -> None:
    ends: tuple[AttemptEnd, ...] = ("broker_lost", "preempted", "drained", "worker_lost", "preempted")
    attempts = tuple(AttemptRecord(epoch=1, worker_id="w", granted_at=0.0, ended=ended) for ended in ends)
    waiting = Waiting(a_request(attempts=attempts), None, 0.0)
    assert (waiting.losses, waiting.lane.alone) == (1, False)
    waiting.request = a_request(attempts=(*attempts, attempts[-2].model_copy(update={"ended": "engine_failed"})))
    assert (waiting.losses, waiting.lane.alone) == (2, True)


def test_of_very_many_attempts_those_that_count_are_kept() -> None:
    attempts: tuple[AttemptRecord, ...] = ()
    for epoch in range(decisions.MOST_ATTEMPTS * 2):
        attempt = AttemptRecord(epoch=epoch, worker_id="w", granted_at=0.0)
        attempts = decisions.keep(attempts, attempt)
        ended: AttemptEnd = "worker_lost" if epoch in (0, 7) else "preempted"
        attempts = (*attempts[:-1], attempt.model_copy(update={"ended": ended}))
    assert len(attempts) == decisions.MOST_ATTEMPTS
    assert [attempt.epoch for attempt in attempts[:3]] == [0, 7, decisions.MOST_ATTEMPTS + 2]


def test_a_connection_is_shaken_until_some_time_after_it_came_back() -> None:
    link, bus = Link(), ABus()
    assert not link.look(bus, 0.0)
    assert not link.shaken(bus, 0.0)
    bus.connected = False
    assert link.shaken(bus, 1.0)
    assert not link.steady(bus)
    bus.connected, bus.connections = True, 2
    assert not link.steady(bus), "what waited before may be somebody else's now"
    assert link.look(bus, 2.0)
    assert link.steady(bus)
    assert link.shaken(bus, 2.0 + SHAKEN_SECONDS - 1)
    assert not link.shaken(bus, 2.0 + SHAKEN_SECONDS + 1)
