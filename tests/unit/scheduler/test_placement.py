import pytest

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.scheduler import RequestInference
from services.scheduler import placement
from services.scheduler.fleet import Grant, Worker
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, a_request


def a_worker(granted: tuple[str, ...] = (), unreachable: bool = False, **changes: object) -> Worker:
    worker = Worker(a_heartbeat(**changes), heard_at=0, unreachable=unreachable)
    for number, digest in enumerate(granted):
        worker.grant(Grant(f"r{number}", 1, digest, 0))
    return worker


def asks_for(model: ModelRef, **changes: object) -> RequestInference:
    return a_request(model=model, **changes)


ECHO = a_model()
WEIGHTS = a_model(name="tiny:latest", engine="llama_cpp", weights="sha256:" + "0" * 64)
ANY_ECHO = asks_for(ECHO)


@pytest.mark.parametrize("state", ["draining", "offline"])
def test_a_worker_that_leaves_gets_nothing_new(state: str) -> None:
    assert not placement.accepts_work(ANY_ECHO, a_worker(state=state))


def test_a_worker_whose_queue_is_gone_gets_nothing() -> None:
    assert not placement.accepts_work(ANY_ECHO, a_worker(unreachable=True))


def test_a_virtual_model_runs_only_where_it_is_served() -> None:
    assert placement.can_run(ANY_ECHO, a_worker())
    assert not placement.can_run(asks_for(a_model(name="mock-1")), a_worker())
    assert not placement.can_run(ANY_ECHO, a_worker(engines=("llama_cpp",)))


def test_weights_run_on_any_worker_with_the_engine() -> None:
    assert placement.can_run(asks_for(WEIGHTS), a_worker(virtual_models=()))


def test_slots_are_bounded_per_model_and_per_worker() -> None:
    assert placement.has_free_slot(ANY_ECHO, a_worker(granted=(ECHO.digest,)))
    assert not placement.has_free_slot(ANY_ECHO, a_worker(granted=(ECHO.digest,) * 2))
    assert not placement.has_free_slot(ANY_ECHO, a_worker(granted=("other",) * 4))
    roomy = a_worker(granted=(ECHO.digest,) * 2, loaded=(a_loaded_model(ECHO, slots=4),))
    assert placement.has_free_slot(ANY_ECHO, roomy), "a loaded model says itself how many slots it has"


def test_a_busy_model_is_never_evicted_for_another() -> None:
    assert not placement.has_room_for_model(ANY_ECHO, a_worker(granted=("a", "b")))
    assert placement.has_room_for_model(asks_for(a_model(name="a", digest="a")), a_worker(granted=("a", "b")))
    idle = (a_loaded_model(a_model(name="x")), a_loaded_model(a_model(name="y")))
    assert placement.has_room_for_model(ANY_ECHO, a_worker(loaded=idle))


def test_a_loaded_model_attracts() -> None:
    cold = a_worker(worker_id="cold")
    warm = a_worker(worker_id="warm", loaded=(a_loaded_model(ECHO),), granted=(ECHO.digest,))
    assert placement.place(ANY_ECHO, [cold, warm]) is warm


def test_the_least_loaded_of_equals_wins() -> None:
    idle, busy = a_worker(worker_id="idle"), a_worker(worker_id="busy", granted=("other",))
    assert placement.place(ANY_ECHO, [busy, idle]) is idle


def test_nobody_free_is_none_but_still_able() -> None:
    full = a_worker(granted=(ECHO.digest,) * 2)
    assert placement.place(ANY_ECHO, [full]) is None
    assert placement.able(ANY_ECHO, [full])
    assert not placement.able(asks_for(a_model(name="mock-1")), [full])


def test_a_longer_context_goes_where_nobody_has_to_be_waited_for() -> None:
    loaded = (a_loaded_model(WEIGHTS, context_length=4096),)
    idle, busy = a_worker(worker_id="idle"), a_worker(worker_id="busy", loaded=loaded, granted=(WEIGHTS.runner,))
    assert placement.place(asks_for(WEIGHTS, num_ctx=4096), [idle, busy]) is busy
    assert placement.place(asks_for(WEIGHTS, num_ctx=4097), [idle, busy]) is idle
    trained_to_less = asks_for(WEIGHTS.model_copy(update={"context_length": 2048}), num_ctx=9999)
    assert placement.place(trained_to_less, [idle, busy]) is busy, "it could not grow there either"
    unused = a_worker(worker_id="unused", loaded=loaded)
    assert placement.place(asks_for(WEIGHTS, num_ctx=4097), [idle, unused]) is unused
    assert placement.place(asks_for(WEIGHTS, num_ctx=4097), [busy]) is busy, "better late than never"


def test_a_context_longer_than_any_worker_has_is_no_reason_to_load_it_elsewhere() -> None:
    loaded = (a_loaded_model(WEIGHTS, context_length=32768),)
    busy = a_worker(max_context_length=32768, loaded=loaded, granted=(WEIGHTS.runner,))
    assert placement.context_suffices(asks_for(WEIGHTS, num_ctx=131072), busy) == 0
    roomy = a_worker(max_context_length=65536, loaded=loaded, granted=(WEIGHTS.runner,))
    assert placement.context_suffices(asks_for(WEIGHTS, num_ctx=131072), roomy) < 0
