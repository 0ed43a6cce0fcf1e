import random

import pytest

from libs.common.contracts.worker import VirtualModel
from services.scheduler import facts, placement
from services.scheduler.fleet import Fleet, Worker
from services.scheduler.grants import Grant
from services.scheduler.openings import MOST_LOOKED_AT, Pool
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, a_request

MODELS = [
    a_model(name="big", engine="llama_cpp", weights="sha256:a"),
    a_model(name="echo-1"),
    a_model(name="served-here"),
]
OPEN = (
    placement.accepts_work,
    placement.node_takes_work,
    placement.has_free_slot,
    placement.has_room_for_model,
    lambda _, worker: worker.able or worker.at_hand,
)


def test_a_pool_gives_each_of_its_workers_and_no_other() -> None:
    pool = Pool()
    workers = [Worker(a_heartbeat(worker_id=str(number)), 0) for number in range(10)]
    for worker in (*workers, *workers):
        pool.add(worker)
    for worker in (*workers[::2], *workers[::2]):
        pool.discard(worker)
    assert len(pool) == 5
    assert set(pool) == set(pool.draw(9)) == set(workers[1::2])
    assert len({worker.id for worker in pool.draw(3)}) == 3


def a_beat(number: int, choices: random.Random) -> object:
    loaded = choices.sample(MODELS, choices.randint(0, 2))
    return a_heartbeat(
        worker_id=str(number),
        node=f"n{number % 5}",
        state=choices.choice(["active"] * 8 + ["draining", "offline"]),
        slots=choices.randint(1, 3),
        slots_per_model=choices.randint(1, 2),
        max_loaded_models=choices.randint(1, 2),
        loaded=tuple(a_loaded_model(model, slots=choices.randint(1, 2)) for model in loaded),
        engines=choices.choice([("echo",), ("llama_cpp",), ("echo", "llama_cpp")]),
        virtual_models=(VirtualModel(pattern=choices.choice(["echo*", "served*"]), engine="echo"),),
    )


def change(fleet: Fleet, choices: random.Random, step: int) -> None:
    workers = list(fleet)
    worker = choices.choice(workers)
    match choices.randrange(8):
        case 0 | 1:
            fleet.hear(a_beat(choices.randrange(30), choices), now=step)  # type: ignore[arg-type]
        case 2 | 3 | 4:
            request = a_request(model=choices.choice(MODELS), prefix=(choices.randrange(9),))
            worker.grant(Grant(request.request_id, 1, request.model.runner, step, request))
        case 5:
            for request_id in list(worker.grants)[:1]:
                worker.take_back(request_id)
        case 6:
            fleet.drain({f"n{choices.randrange(6)}"})
        case 7:
            fleet.mark_unreachable(worker.id)


@pytest.mark.parametrize("seed", range(30))
def test_the_indices_know_who_has_room_after_whatever_happened(seed: int) -> None:
    choices = random.Random(seed)
    fleet = Fleet()
    for number in range(30):
        fleet.hear(a_heartbeat(worker_id=str(number), node=f"n{number % 5}"), now=0)
    for step in range(80):
        change(fleet, choices, step)
    fleet.remove_silent(now=80, silence_seconds=choices.choice([75, 1000]))
    for model in MODELS:
        request = a_request(model=model, prefix=(1,))
        asked = facts.of_request(request)
        groups = list(fleet.candidates(request, loads=True))
        listed = [worker.id for group in groups for worker in group]
        known = {worker.id: facts.of_worker(request, worker, asked) for worker in fleet}
        open_to_it = {worker_id for worker_id, each in known.items() if all(rule(asked, each) for rule in OPEN)}
        assert open_to_it <= set(listed), "nobody who has room is overlooked"
        if len(fleet) > MOST_LOOKED_AT:
            assert sorted(listed) == sorted(open_to_it)
            assert all(len(group) <= MOST_LOOKED_AT for group in groups)
            with_it = [worker for group in fleet.candidates(request, loads=False) for worker in group]
            assert {worker.id for worker in with_it} == {name for name in open_to_it if known[name].at_hand}
        copies = {worker.id for worker in fleet if worker.takes_work and model.runner in worker.models_at_hand()}
        assert {worker.id for worker in fleet.copies(model.runner)} == copies


def test_of_a_big_fleet_a_few_are_looked_at_and_all_if_need_be() -> None:
    fleet = Fleet()
    memory = {"memory_available_bytes": 10}
    for number in range(200):
        fleet.hear(a_heartbeat(worker_id=str(number), **({} if number == 77 else memory)), now=0)
    big = a_request(model=MODELS[0].model_copy(update={"size": 1000}))
    choice = placement.place(big, fleet)
    assert choice.worker is fleet["77"], "the only one that is not known to have too little memory"
    assert choice.considered == 200
    assert len(choice.workers) <= MOST_LOOKED_AT


def test_a_big_fleet_sends_who_begins_alike_to_the_same_worker() -> None:
    fleet = Fleet()
    for number in range(200):
        fleet.hear(a_heartbeat(worker_id=str(number), loaded=(a_loaded_model(MODELS[1]),)), now=0)
    first = a_request(model=MODELS[1], prefix=(1, 2))
    worker = placement.place(first, fleet).worker
    assert worker is not None
    worker.grant(Grant(first.request_id, 1, first.model.runner, 0, first))
    assert placement.place(a_request(model=MODELS[1], prefix=(1, 2, 3)), fleet).worker is worker
