from services.scheduler.fleet import GRANT_SETTLES_SECONDS, Fleet
from services.scheduler.grants import Grant
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, a_request, running


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


def test_a_slot_stays_taken_however_long_its_grant_is_on_the_way() -> None:
    fleet = a_fleet()
    grant = Grant("r", 1, "m", granted_at=1, sent=False)
    fleet["w1"].grant(grant)
    fleet.hear(a_heartbeat(running=(running("r"),)), now=2)  # an attempt that another scheduler granted
    fleet.hear(a_heartbeat(), now=60)
    assert fleet["w1"].grants == {"r": grant}


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
    assert fleet["w1"].heard_at == 0, "nor is it a sign of life"
    assert len(fleet.remove_silent(now=14, silence_seconds=3)) == 1


def test_a_late_heartbeat_does_not_take_a_freed_slot_for_long() -> None:
    fleet = a_fleet()
    fleet["w1"].grant(Grant("r", 1, "m", granted_at=0))
    fleet.release("w1", "r")
    fleet.hear(a_heartbeat(running=(running("r"),)), now=1)
    assert fleet.hear(a_heartbeat(), now=2)
    assert grants(fleet) == []


def test_a_node_drains_with_all_its_workers_also_those_that_come_later() -> None:
    fleet = a_fleet()
    fleet.drain({"n1"})
    fleet.hear(a_heartbeat(worker_id="w2"), now=1)
    fleet.hear(a_heartbeat(worker_id="w3", node="n2"), now=1)
    assert {worker.heartbeat.worker_id: worker.node_drains for worker in fleet} == {"w1": True, "w2": True, "w3": False}
    fleet.drain(())
    assert not any(worker.node_drains for worker in fleet)


def test_who_said_goodbye_is_known_until_heard_again() -> None:
    fleet = a_fleet()
    fleet.hear(a_heartbeat(state="offline"), now=1)
    assert fleet.said_goodbye == {"n1"}
    fleet.hear(a_heartbeat(worker_id="w2"), now=2)
    assert fleet.said_goodbye == set()


def test_who_has_a_request_is_known_without_asking_all() -> None:
    fleet = a_fleet()
    assert not fleet.holds("r")
    fleet["w1"].grant(Grant("r", 2, "m", granted_at=0))
    assert fleet.holds("r")
    assert fleet.holder("r") is fleet["w1"]
    assert fleet.running_above("r", 1)
    fleet.hear(a_heartbeat(state="offline"), now=1)
    assert not fleet.holds("r")


def test_a_worker_that_is_gone_no_longer_changes_the_fleet() -> None:
    fleet = a_fleet()
    gone = fleet["w1"]
    gone.grant(Grant("r", 1, "m", granted_at=0))
    fleet.remove_silent(now=9, silence_seconds=3)
    gone.take_back("r")
    gone.grant(Grant("s", 1, "m", granted_at=0))
    assert not fleet.holds("s")


def test_how_long_a_load_takes_is_learned_from_the_one_that_was_waited_for() -> None:
    fleet = a_fleet()
    model = a_model(engine="llama_cpp", weights="sha256:a", size=400_000_000)
    assert fleet.load_seconds(model) == 3
    assert fleet.load_seconds(a_model()) == 0
    for request_id, granted_at in (("r", 1.0), ("s", 4.0)):
        request = a_request(request_id=request_id, model=model)
        fleet["w1"].grant(Grant(request_id, 1, model.runner, granted_at, request))
    fleet.hear(a_heartbeat(loaded=(a_loaded_model(model),)), now=8.5)
    assert fleet.load_seconds(model) == 7.5


def test_a_slot_that_was_told_is_free_once_it_is_told_no_more() -> None:
    fleet = a_fleet()
    fleet["w1"].grant(Grant("r", 1, "m", granted_at=1))
    fleet.hear(a_heartbeat(running=(running("r"),)), now=1.1)
    assert fleet.hear(a_heartbeat(), now=1.2)
    assert grants(fleet) == []


def test_an_old_report_of_an_attempt_before_says_nothing_of_this_one() -> None:
    fleet = a_fleet()
    fleet["w1"].grant(Grant("r", 2, "m", granted_at=1))
    fleet.hear(a_heartbeat(running=(running("r", epoch=1),)), now=1.1)
    fleet.hear(a_heartbeat(), now=1.2)
    assert grants(fleet) == ["r"]


def test_a_stand_by_can_tell_waits_as_soon_as_it_is_active() -> None:
    fleet, runner = Fleet(), running("r").runner
    fleet.hear(a_heartbeat(running=(running("old"), running("r"))), now=0)
    fleet.throughput.ended("old", now=10)
    fleet.hear(a_heartbeat(running=(running("r"), running("s"))), now=10)
    assert fleet.throughput.wait_seconds(runner, 2, now=10) == 15


def test_what_was_handed_back_tells_nothing_of_how_long_requests_take() -> None:
    fleet = a_fleet()
    for request_id in ("old", "r"):
        fleet["w1"].grant(Grant(request_id, 1, "m", granted_at=0))
    fleet.throughput.ended("old", now=10)
    fleet["w1"].take_back("r")
    fleet.throughput.ended("r", now=11)
    fleet["w1"].grant(Grant("s", 1, "m", granted_at=11))
    assert fleet.throughput.wait_seconds("m", 0, now=11) == 10


def test_a_report_may_be_faster_than_the_word_of_an_end() -> None:
    fleet = Fleet()
    fleet.hear(a_heartbeat(running=(running("old"), running("r"))), now=0)
    fleet.hear(a_heartbeat(running=(running("r"),)), now=10)
    fleet.throughput.ended("old", now=10.5)
    assert fleet.throughput.wait_seconds(running("r").runner, 1, now=10) == 15
