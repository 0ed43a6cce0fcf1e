"""What the rules of placement look at: of a request, and of each worker for that request. Pure.

Facts are kept with the request as JSON, so what is as usual is left out.
"""

import random
from collections.abc import Iterable
from typing import Literal

import msgspec

from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.memory_estimate import bytes_needed
from services.scheduler.breaker import Breaker
from services.scheduler.fleet import Fleet, Worker
from services.scheduler.openings import can_run

STALE_SECONDS = 2.0
"""A worker reports every second: an older report says little about now."""


class RequestFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    runner: str
    alone: bool = False
    prefix: int = 0
    """Blocks of its prompt by which a cached beginning is known."""

    wait_seconds: float = 0.0
    """How long it waits, or was expected to when it came: whatever is more."""

    load_seconds: float = 0.0
    """What a load of its model takes."""

    served: bool = False
    """Some worker has the model already, or soon."""

    untried: bool = False
    """Where it has failed to load, and some worker could run it on which it has not."""

    draw: int | None = None
    """32 random bits, where reports are old."""


class WorkerFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Counts are of this scheduler's books, which are newer than the worker's report."""

    state: str = "active"
    node_drains: bool = False
    able: bool = True
    """It has the engine, and serves a model of that name."""

    slots: int
    granted: int = 0
    model_slots: int
    model_granted: int = 0
    at_hand: bool = False
    """The model is in its memory, or on its way there."""

    must_grow: bool = False
    """It would have to be loaded again with a longer context, once all who use it have left."""

    max_models: int
    models_in_use: int = 0
    models_loaded: int = 0
    needs_bytes: int = 0
    """To load it here. These are known only where it is not at hand."""

    free_bytes: int | None = None
    idle_bytes: int = 0
    busy_bytes: int = 0
    coming_bytes: int = 0
    """Of models that others have been granted, and that are not loaded yet."""

    suspect: bool = False
    """A request runs there that may be what kills workers."""

    reserved: Literal["", "it", "another"] = ""
    """It is let run empty for a request that must run alone: for this one, or another."""

    failed: bool = False
    """The model failed to load there a moment ago."""

    prefix: int = 0
    """Blocks of the prompt that its cache may have."""

    stale: bool = False


def draw() -> int:
    return random.getrandbits(32)


def of_request(
    request: RequestInference, workers: Iterable[Worker] = (), *, alone: bool = False, wait_seconds: float = 0.0
) -> RequestFacts:
    runner = request.model.runner
    if isinstance(workers, Fleet):
        copies, load_seconds = workers.copies(runner), workers.load_seconds(request.model)
    else:
        copies, load_seconds = iter(()), 0.0
    return RequestFacts(
        runner=runner,
        alone=alone,
        prefix=len(request.prefix),
        wait_seconds=wait_seconds,
        load_seconds=load_seconds,
        served=not alone and any(not _must_grow(request, runner, worker) for worker in copies),
    )


def of_worker(
    request: RequestInference,
    worker: Worker,
    asked: RequestFacts,
    workers: Iterable[Worker] = (),
    *,
    now: float = 0.0,
    breaker: Breaker | None = None,
) -> WorkerFacts:
    beat, runner = worker.heartbeat, asked.runner
    in_use = worker.models_in_use()
    at_hand = runner in in_use or runner in worker.loaded
    facts = WorkerFacts(
        state="unreachable" if worker.unreachable else beat.state,
        node_drains=worker.node_drains,
        able=can_run(request.model, worker.kind),
        slots=beat.slots,
        granted=len(worker.grants),
        model_slots=worker.slots_for(runner),
        model_granted=worker.granted_to(runner),
        at_hand=at_hand,
        max_models=beat.max_loaded_models,
        models_in_use=len(in_use),
        models_loaded=len(worker.loaded),
        suspect=worker.has_suspect,
        failed=breaker is not None and runner not in worker.loaded and breaker.avoids(worker.id, runner),
        stale=now - worker.heard_at > STALE_SECONDS,
    )
    if worker.reserved_for is not None:
        facts.reserved = "it" if worker.reserved_for == request.request_id else "another"
    if at_hand:
        facts.must_grow = _must_grow(request, runner, worker)
        if asked.prefix and isinstance(workers, Fleet):
            facts.prefix = workers.prefix_matched(worker, runner, request.prefix)
    elif beat.memory_available_bytes and request.model.weights is not None:
        _add_memory(facts, request, worker)
    return facts


def _add_memory(facts: WorkerFacts, request: RequestInference, worker: Worker) -> None:
    in_use = worker.models_in_use()
    facts.needs_bytes = _needs_bytes(request, worker)
    facts.free_bytes = worker.heartbeat.memory_available_bytes
    for loaded in worker.loaded.values():
        if loaded.runner in in_use:
            facts.busy_bytes += loaded.size
        else:
            facts.idle_bytes += loaded.size
    for runner in in_use:
        if runner not in worker.loaded:
            facts.coming_bytes += _coming_bytes(worker, runner)


def _context(request: RequestInference, worker: Worker) -> int:
    """What the model must at least be loaded with, in tokens."""
    beat = worker.heartbeat
    wanted = max(request.num_ctx, beat.context_length)
    return min(wanted, request.model.context_length or wanted, beat.max_context_length)


def _must_grow(request: RequestInference, runner: str, worker: Worker) -> bool:
    loaded = worker.loaded.get(runner)
    if loaded is None or not worker.granted_to(runner):
        return False
    return loaded.context_length < min(_context(request, worker), request.num_ctx)


def _needs_bytes(request: RequestInference, worker: Worker) -> int:
    model = request.model
    slots = worker.heartbeat.slots_per_model
    return bytes_needed(model.size, model.kv_bytes_per_token, _context(request, worker), slots)


def _coming_bytes(worker: Worker, runner: str) -> int:
    """The most that those who wait for this load need; 0 if another scheduler has granted it."""
    asked = [grant.request for grant in worker.own_grants(runner)]
    return max((_needs_bytes(request, worker) for request in asked if request is not None), default=0)
