from services.scheduler.fleet import GRANT_SETTLES_SECONDS, Fleet, Grant
from tests.fixtures.builders import a_heartbeat, running


def a_fleet() -> Fleet:
    fleet = Fleet()
    fleet.hear(a_heartbeat(), now=0)
    return fleet


def grants(fleet: Fleet) -> list[str]:
    return [request_id for worker in fleet for request_id in worker.grants]


def test_a_new_worker_is_news_and_an_unchanged_one_is_not() -> None:
    fleet = Fleet()
    assert fleet.hear(a_heartbeat(), now=0)
    assert not fleet.hear(a_heartbeat(), now=1)
    assert fleet.hear(a_heartbeat(state="draining"), now=2)


def test_a_young_grant_outlives_a_heartbeat_that_does_not_know_it_yet() -> None:
    fleet = a_fleet()
    fleet["w1"].grant(Grant("r", 1, "m", granted_at=1))
    assert not fleet.hear(a_heartbeat(), now=1 + GRANT_SETTLES_SECONDS)
    assert grants(fleet) == ["r"]


def test_a_slot_whose_end_was_not_heard_is_freed_by_a_heartbeat() -> None:
    fleet = a_fleet()
    fleet["w1"].grant(Grant("r", 1, "m", granted_at=1))
    assert fleet.hear(a_heartbeat(), now=1.1 + GRANT_SETTLES_SECONDS)
    assert grants(fleet) == []


def test_a_new_scheduler_learns_what_runs_from_heartbeats() -> None:
    fleet = Fleet()
    fleet.hear(a_heartbeat(running=(running("r", epoch=2),)), now=0)
    assert grants(fleet) == ["r"]
    assert fleet.running_above("r", 1)
    assert not fleet.running_above("r", 2)


def test_release_says_whether_a_slot_became_free() -> None:
    fleet = a_fleet()
    fleet["w1"].grant(Grant("r", 1, "m", granted_at=0))
    assert fleet.release("w1", "r")
    assert not fleet.release("w1", "r")
    assert not fleet.release("unknown", "r")


def test_silent_workers_are_returned_with_their_grants_and_forgotten() -> None:
    fleet = a_fleet()
    fleet["w1"].grant(Grant("r", 1, "m", granted_at=0))
    assert fleet.remove_silent(now=3, silence_seconds=3) == []
    (lost,) = fleet.remove_silent(now=3.1, silence_seconds=3)
    assert list(lost.grants) == ["r"]
    assert len(fleet) == 0


def test_an_offline_worker_is_forgotten_at_once() -> None:
    fleet = a_fleet()
    assert fleet.hear(a_heartbeat(state="offline"), now=1)
    assert len(fleet) == 0


def test_silence_is_no_sign_while_we_cannot_hear() -> None:
    fleet = a_fleet()
    fleet.excuse_silence(now=10)
    assert fleet.remove_silent(now=12, silence_seconds=3) == []
    assert len(fleet.remove_silent(now=14, silence_seconds=3)) == 1


def test_a_late_heartbeat_does_not_take_a_freed_slot_for_long() -> None:
    fleet = a_fleet()
    fleet["w1"].grant(Grant("r", 1, "m", granted_at=0))
    fleet.release("w1", "r")
    fleet.hear(a_heartbeat(running=(running("r"),)), now=1)
    assert fleet.hear(a_heartbeat(), now=2)
    assert grants(fleet) == []
