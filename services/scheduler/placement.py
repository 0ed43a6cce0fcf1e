"""Which worker runs a request: filters that say who can, then scores that say who should. Pure.

To add a rule, write a function and put it into its list.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.worker import LoadedModel
from services.scheduler.fleet import Worker

Filter = Callable[[ModelRef, Worker], bool]
Score = Callable[[ModelRef, Worker], float]


def _loaded(model: ModelRef, worker: Worker) -> LoadedModel | None:
    return next((loaded for loaded in worker.heartbeat.loaded if loaded.runner == model.runner), None)


def accepts_work(_model: ModelRef, worker: Worker) -> bool:
    return worker.heartbeat.state == "active" and not worker.unreachable


def can_run(model: ModelRef, worker: Worker) -> bool:
    """It has the engine and, for a model without weights of ours, serves that name."""
    if model.engine not in worker.heartbeat.engines:
        return False
    if model.weights is not None:
        return True
    return any(fnmatchcase(model.name, virtual.pattern) for virtual in worker.heartbeat.virtual_models)


def has_free_slot(model: ModelRef, worker: Worker) -> bool:
    loaded = _loaded(model, worker)
    model_slots = loaded.slots if loaded else worker.heartbeat.slots_per_model
    return len(worker.grants) < worker.heartbeat.slots and worker.granted_to(model.runner) < model_slots


def has_room_for_model(model: ModelRef, worker: Worker) -> bool:
    """It is loaded, on its way, or fits beside the models that are busy; idle ones can be evicted."""
    in_use = worker.models_in_use()
    return (
        model.runner in in_use or _loaded(model, worker) is not None or len(in_use) < worker.heartbeat.max_loaded_models
    )


def already_loaded(model: ModelRef, worker: Worker) -> float:
    return 2.0 if _loaded(model, worker) or model.runner in worker.models_in_use() else 0.0


def free_share(_model: ModelRef, worker: Worker) -> float:
    return 1.0 - len(worker.grants) / worker.heartbeat.slots


def room_without_eviction(_model: ModelRef, worker: Worker) -> float:
    return 0.5 if len(worker.heartbeat.loaded) < worker.heartbeat.max_loaded_models else 0.0


ABILITIES: tuple[Filter, ...] = (accepts_work, can_run)
CAPACITIES: tuple[Filter, ...] = (has_free_slot, has_room_for_model)
SCORES: tuple[Score, ...] = (already_loaded, free_share, room_without_eviction)


def able(model: ModelRef, workers: Iterable[Worker]) -> bool:
    """Could any of them run it, were it idle?"""
    return any(all(rule(model, worker) for rule in ABILITIES) for worker in workers)


def place(model: ModelRef, workers: Iterable[Worker]) -> Worker | None:
    """The best worker with a free slot now, or None."""
    candidates = [worker for worker in workers if all(rule(model, worker) for rule in (*ABILITIES, *CAPACITIES))]
    return max(candidates, key=lambda worker: sum(score(model, worker) for score in SCORES), default=None)
