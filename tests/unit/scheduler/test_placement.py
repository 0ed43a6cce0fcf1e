from typing import Any

import pytest

from libs.common import memory_estimate
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.scheduler.inference import AttemptRecord, RequestInference
from libs.common.contracts.worker import WorkerHeartbeat
from libs.common.errors import ModelLoadFailed
from services.scheduler import facts, placement
from services.scheduler.breaker import Breaker
from services.scheduler.fleet import Fleet, Worker
from services.scheduler.grants import Grant
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, a_request, an_end


def a_worker(granted: tuple[str, ...] = (), unreachable: bool = False, **changes: Any) -> Worker:
    worker = Worker(a_heartbeat(**changes), heard_at=0, unreachable=unreachable)
    for number, digest in enumerate(granted):
        worker.grant(Grant(f"r{number}", 1, digest, 0))
    return worker


def asks_for(model: ModelRef, **changes: object) -> RequestInference:
    return a_request(model=model, **changes)


ECHO = a_model()
WEIGHTS = a_model(name="tiny:latest", engine="llama_cpp", weights="sha256:" + "0" * 64)
ANY_ECHO = asks_for(ECHO)


def passes(rule: placement.Filter, worker: Worker, request: RequestInference = ANY_ECHO, alone: bool = False) -> bool:
    asked = facts.of_request(request, alone=alone)
    return rule(asked, facts.of_worker(request, worker, asked))


def score(rule: placement.Score, worker: Worker, request: RequestInference = ANY_ECHO) -> float:
    asked = facts.of_request(request)
    return rule(asked, facts.of_worker(request, worker, asked), 0)


@pytest.mark.parametrize("state", ["draining", "offline"])
def test_a_worker_that_leaves_gets_nothing_new(state: str) -> None:
    assert not passes(placement.accepts_work, a_worker(state=state))


def test_a_worker_whose_queue_is_gone_gets_nothing() -> None:
    assert not passes(placement.accepts_work, a_worker(unreachable=True))


def test_a_worker_of_a_node_that_drains_gets_nothing_new() -> None:
    worker = a_worker()
    assert placement.place(ANY_ECHO, [worker]).worker is worker
    worker.node_drains = True
    assert placement.place(ANY_ECHO, [worker]).worker is None
    assert not placement.able(ANY_ECHO, [worker])


def test_a_virtual_model_runs_only_where_it_is_served() -> None:
    assert passes(placement.can_run, a_worker())
    assert not passes(placement.can_run, a_worker(), asks_for(a_model(name="mock-1")))
    assert not passes(placement.can_run, a_worker(engines=("llama_cpp",)))


def test_weights_run_on_any_worker_with_the_engine() -> None:
    assert passes(placement.can_run, a_worker(virtual_models=()), asks_for(WEIGHTS))


def test_slots_are_bounded_per_model_and_per_worker() -> None:
    assert passes(placement.has_free_slot, a_worker(granted=(ECHO.digest,)))
    assert not passes(placement.has_free_slot, a_worker(granted=(ECHO.digest,) * 2))
    assert not passes(placement.has_free_slot, a_worker(granted=("other",) * 4))
    roomy = a_worker(granted=(ECHO.digest,) * 2, loaded=(a_loaded_model(ECHO, slots=4),))
    assert passes(placement.has_free_slot, roomy), "a loaded model says itself how many slots it has"


def test_a_busy_model_is_never_evicted_for_another() -> None:
    assert not passes(placement.has_room_for_model, a_worker(granted=("a", "b")))
    assert passes(placement.has_room_for_model, a_worker(granted=("a", "b")), asks_for(a_model(name="a", digest="a")))
    idle = (a_loaded_model(a_model(name="x")), a_loaded_model(a_model(name="y")))
    assert passes(placement.has_room_for_model, a_worker(loaded=idle))


def test_a_suspect_runs_where_nobody_else_does_and_nobody_joins_it() -> None:
    assert not passes(placement.alone_if_suspect, a_worker(granted=("other",)), alone=True)
    assert passes(placement.alone_if_suspect, a_worker(granted=("other",)))
    assert passes(placement.alone_if_suspect, a_worker(), alone=True)
    worker = a_worker()
    assert passes(placement.lets_suspects_alone, worker)
    worker.grant(Grant("suspect", 3, "other", 0, alone=True))
    assert not passes(placement.lets_suspects_alone, worker)
    worker.take_back("suspect")
    assert passes(placement.lets_suspects_alone, worker)


def a_worker_with_memory(available: int, **changes: Any) -> Worker:
    return a_worker(memory_available_bytes=available, context_length=1000, **changes)


BIG = WEIGHTS.model_copy(update={"size": 4000, "kv_bytes_per_token": 2})
BIG_NEEDS = 4000 + 2 * 1000 * 2 + memory_estimate.WORKING_BYTES
"""With two slots of 1000 tokens."""


def test_a_model_goes_where_it_fits_beside_what_is_busy_or_on_its_way() -> None:
    request = asks_for(BIG)
    assert passes(placement.fits_memory, a_worker_with_memory(BIG_NEEDS), request)
    assert not passes(placement.fits_memory, a_worker_with_memory(BIG_NEEDS - 1), request)
    assert passes(placement.fits_memory, a_worker_with_memory(0), request), "not known"
    idle = a_worker_with_memory(BIG_NEEDS - 1, loaded=(a_loaded_model(a_model(name="x"), size=1),))
    assert passes(placement.fits_memory, idle, request), "an idle model can leave"
    idle.grant(Grant("r", 1, a_model(name="x").runner, 0))
    assert not passes(placement.fits_memory, idle, request)
    assert passes(placement.could_fit, idle, request), "it will end some time"
    other = a_model(name="y", engine="llama_cpp", weights="sha256:y", size=1)
    loading = a_worker_with_memory(BIG_NEEDS + 1)
    loading.grant(Grant("r", 1, other.runner, 0, asks_for(other)))
    assert not passes(placement.fits_memory, loading, request), "somebody else's load has been granted the memory"
    loading.grant(Grant("s", 1, BIG.runner, 0, request))
    assert passes(placement.fits_memory, loading, request), "its own is on the way"


def test_a_model_too_big_for_every_worker_is_not_waited_for() -> None:
    assert not placement.able(asks_for(BIG), [a_worker_with_memory(BIG_NEEDS - 1)])
    assert placement.able(asks_for(BIG), [a_worker_with_memory(BIG_NEEDS - 1), a_worker()])


def test_a_loaded_model_attracts() -> None:
    cold = a_worker(worker_id="cold")
    warm = a_worker(worker_id="warm", loaded=(a_loaded_model(ECHO),), granted=(ECHO.digest,))
    assert placement.place(ANY_ECHO, [cold, warm]).worker is warm


def test_the_least_loaded_of_equals_wins() -> None:
    idle, busy = a_worker(worker_id="idle"), a_worker(worker_id="busy", granted=("other",))
    assert placement.place(ANY_ECHO, [busy, idle]).worker is idle


def test_nobody_free_is_none_but_still_able() -> None:
    full = a_worker(granted=(ECHO.digest,) * 2)
    assert placement.place(ANY_ECHO, [full]).worker is None
    assert placement.able(ANY_ECHO, [full])
    assert not placement.able(asks_for(a_model(name="mock-1")), [full])


def test_a_longer_context_goes_where_nobody_has_to_be_waited_for() -> None:
    loaded = (a_loaded_model(WEIGHTS, context_length=4096),)
    idle, busy = a_worker(worker_id="idle"), a_worker(worker_id="busy", loaded=loaded, granted=(WEIGHTS.runner,))
    assert placement.place(asks_for(WEIGHTS, num_ctx=4096), [idle, busy]).worker is busy
    assert placement.place(asks_for(WEIGHTS, num_ctx=4097), [idle, busy]).worker is idle
    trained_to_less = asks_for(WEIGHTS.model_copy(update={"context_length": 2048}), num_ctx=9999)
    assert placement.place(trained_to_less, [idle, busy]).worker is busy, "it could not grow there either"
    unused = a_worker(worker_id="unused", loaded=loaded)
    assert placement.place(asks_for(WEIGHTS, num_ctx=4097), [idle, unused]).worker is unused
    assert placement.place(asks_for(WEIGHTS, num_ctx=4097), [busy]).worker is busy, "better late than never"


def test_a_context_longer_than_any_worker_has_is_no_reason_to_load_it_elsewhere() -> None:
    loaded = (a_loaded_model(WEIGHTS, context_length=32768),)
    request = asks_for(WEIGHTS, num_ctx=131072)
    busy = a_worker(max_context_length=32768, loaded=loaded, granted=(WEIGHTS.runner,))
    assert score(placement.context_suffices, busy, request) == 0
    roomy = a_worker(max_context_length=65536, loaded=loaded, granted=(WEIGHTS.runner,))
    assert score(placement.context_suffices, roomy, request) < 0


def a_fleet(*workers: WorkerHeartbeat) -> Fleet:
    fleet = Fleet()
    for heartbeat in workers:
        fleet.hear(heartbeat, now=0)
    return fleet


def give(fleet: Fleet, worker_id: str, request: RequestInference, at: float = 0) -> None:
    fleet[worker_id].grant(Grant(request.request_id, 1, request.model.runner, at, request))


def chosen(request: RequestInference, fleet: Fleet, **situation: Any) -> str | None:
    worker = placement.place(request, fleet, **situation).worker
    return worker.id if worker else None


def test_another_copy_is_loaded_only_for_who_would_wait_longer_than_a_load_takes() -> None:
    fleet = a_fleet(a_heartbeat(worker_id="one"), a_heartbeat(worker_id="two"))
    slow = WEIGHTS.model_copy(update={"size": 2_000_000_000})
    request = asks_for(slow)
    assert fleet.load_seconds(slow) == 11
    for _ in range(2):
        assert chosen(request, fleet) == "one", "the load is shared"
        give(fleet, "one", asks_for(slow))
    assert chosen(request, fleet) is None
    assert chosen(request, fleet, wait_seconds=10.9) is None
    assert chosen(request, fleet, wait_seconds=11) == "two"
    assert chosen(request, fleet, alone=True) == "two", "it may not run beside others, so their copy is none for it"
    fleet.hear(a_heartbeat(worker_id="one", loaded=(a_loaded_model(slow),)), now=2)
    assert chosen(request, fleet, wait_seconds=2) == "two", "it took two seconds"


def test_a_model_without_weights_takes_no_load() -> None:
    fleet = a_fleet(a_heartbeat(worker_id="one"), a_heartbeat(worker_id="two"))
    for worker_id in ("one", "one", "two", "two"):
        assert chosen(ANY_ECHO, fleet) == worker_id
        give(fleet, worker_id, asks_for(ECHO))
    assert chosen(ANY_ECHO, fleet) is None


def test_a_worker_that_failed_to_load_a_model_is_asked_when_there_is_no_other() -> None:
    fleet, breaker = a_fleet(a_heartbeat(worker_id="one"), a_heartbeat(worker_id="two")), Breaker()
    failure = an_end(worker_id="one", runner=WEIGHTS.runner, outcome="failed", error_code=ModelLoadFailed.code)
    breaker.hear(failure)
    request = asks_for(WEIGHTS)
    assert chosen(request, fleet, breaker=breaker) == "two"
    fleet.mark_unreachable("two")
    assert chosen(request, fleet, breaker=breaker) == "one"


def test_who_begins_alike_goes_where_the_beginning_is_cached() -> None:
    workers = [a_heartbeat(worker_id=name, slots=8, slots_per_model=8) for name in ("one", "two")]
    fleet = a_fleet(*workers)
    for worker_id in ("one", "two"):
        give(fleet, worker_id, asks_for(ECHO, prefix=(1, 2)) if worker_id == "two" else asks_for(ECHO))
    alike = asks_for(ECHO, prefix=(1, 2, 3, 4))
    assert chosen(asks_for(ECHO, prefix=(7, 8)), fleet) == "one"
    assert chosen(alike, fleet) == "two"
    for _ in range(2):
        give(fleet, "two", asks_for(ECHO))
    assert chosen(alike, fleet) == "two", "a little busier"
    give(fleet, "two", asks_for(ECHO))
    assert chosen(alike, fleet) == "one", "much busier"


def test_of_equals_with_old_reports_two_are_drawn_and_the_less_loaded_wins() -> None:
    fleet = a_fleet(*(a_heartbeat(worker_id=str(number)) for number in range(5)))
    assert {chosen(ANY_ECHO, fleet, now=1) for _ in range(50)} == {"0"}
    assert len({chosen(ANY_ECHO, fleet, now=3) for _ in range(200)}) == 5
    for number in range(4):
        give(fleet, str(number), asks_for(a_model(name="other")))
    drawn = [chosen(ANY_ECHO, fleet, now=3) for _ in range(300)]
    assert 0.3 < drawn.count("4") / 300 < 0.5, "two of five times it is among the two, and then it wins"


def test_a_model_that_failed_to_load_on_one_worker_is_waited_for_on_another() -> None:
    fleet, breaker = a_fleet(a_heartbeat(worker_id="one"), a_heartbeat(worker_id="two", slots=1)), Breaker()
    request = asks_for(WEIGHTS)
    assert placement.place(request, fleet, breaker=breaker).has_others
    attempt = AttemptRecord(epoch=1, worker_id="one", granted_at=1.0, ended="load_failed", ended_at=2.0)
    breaker.load_failed(WEIGHTS.runner, attempt)
    choice = placement.place(request, fleet, breaker=breaker)
    assert choice.worker is fleet["two"]
    assert not choice.has_others, "it has failed on the other one: this time it is the end"
    give(fleet, "two", asks_for(ECHO))
    assert chosen(request, fleet, breaker=breaker) is None
    fleet.hear(a_heartbeat(worker_id="one", loaded=(a_loaded_model(WEIGHTS),)), now=1)
    assert chosen(request, fleet, breaker=breaker) == "one", "it is in memory there after all"


def test_where_a_model_is_in_memory_nobody_else_has_to_load_it() -> None:
    fleet = a_fleet(a_heartbeat(worker_id="one", loaded=(a_loaded_model(WEIGHTS),)), a_heartbeat(worker_id="two"))
    assert not placement.place(asks_for(WEIGHTS), fleet).has_others
