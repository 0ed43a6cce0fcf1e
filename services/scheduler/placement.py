"""Which worker runs a request: filters that say who can, then scores that say who should. Pure.

To add a rule, write a function and put it into its list.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.scheduler import RequestInference
from libs.common.contracts.worker import LoadedModel
from services.scheduler.fleet import Worker

Filter = Callable[[RequestInference, Worker], bool]
Score = Callable[[RequestInference, Worker], float]


def _loaded(model: ModelRef, worker: Worker) -> LoadedModel | None:
    return next((loaded for loaded in worker.heartbeat.loaded if loaded.runner == model.runner), None)


def accepts_work(_request: RequestInference, worker: Worker) -> bool:
    return worker.heartbeat.state == "active" and not worker.unreachable


def can_run(request: RequestInference, worker: Worker) -> bool:
    """It has the engine and, for a model without weights of ours, serves that name."""
    if request.model.engine not in worker.heartbeat.engines:
        return False
    if request.model.weights is not None:
        return True
    return any(fnmatchcase(request.model.name, virtual.pattern) for virtual in worker.heartbeat.virtual_models)


def has_free_slot(request: RequestInference, worker: Worker) -> bool:
    loaded = _loaded(request.model, worker)
    model_slots = loaded.slots if loaded else worker.heartbeat.slots_per_model
    return len(worker.grants) < worker.heartbeat.slots and worker.granted_to(request.model.runner) < model_slots


def has_room_for_model(request: RequestInference, worker: Worker) -> bool:
    """It is loaded, on its way, or fits beside the models that are busy; idle ones can be evicted."""
    in_use = worker.models_in_use()
    return (
        request.model.runner in in_use
        or _loaded(request.model, worker) is not None
        or len(in_use) < worker.heartbeat.max_loaded_models
    )


def already_loaded(request: RequestInference, worker: Worker) -> float:
    return 2.0 if _loaded(request.model, worker) or request.model.runner in worker.models_in_use() else 0.0


def context_suffices(request: RequestInference, worker: Worker) -> float:
    """A model in use that is loaded with less would first have to be left by all who use it, then loaded again."""
    loaded = _loaded(request.model, worker)
    if loaded is None or not worker.granted_to(loaded.runner):
        return 0.0
    bounds = (request.num_ctx, request.model.context_length or request.num_ctx, worker.heartbeat.max_context_length)
    return 0.0 if loaded.context_length >= min(bounds) else -2.0


def free_share(_request: RequestInference, worker: Worker) -> float:
    return 1.0 - len(worker.grants) / worker.heartbeat.slots


def room_without_eviction(_request: RequestInference, worker: Worker) -> float:
    return 0.5 if len(worker.heartbeat.loaded) < worker.heartbeat.max_loaded_models else 0.0


ABILITIES: tuple[Filter, ...] = (accepts_work, can_run)
CAPACITIES: tuple[Filter, ...] = (has_free_slot, has_room_for_model)
SCORES: tuple[Score, ...] = (already_loaded, context_suffices, free_share, room_without_eviction)


def able(request: RequestInference, workers: Iterable[Worker]) -> bool:
    """Could any of them run it, were it idle?"""
    return any(all(rule(request, worker) for rule in ABILITIES) for worker in workers)


def place(request: RequestInference, workers: Iterable[Worker]) -> Worker | None:
    """The best worker with a free slot now, or None."""
    candidates = [worker for worker in workers if all(rule(request, worker) for rule in (*ABILITIES, *CAPACITIES))]
    return max(candidates, key=lambda worker: sum(score(request, worker) for score in SCORES), default=None)
