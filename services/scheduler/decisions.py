"""Why a request got its worker: the placement and what fair sharing knew, as one JSON text that goes with the grant."""

import time
from collections.abc import Mapping
from typing import Final

import msgspec

from libs.common.contracts.scheduler.decisions import Decision
from libs.common.contracts.scheduler.inference import LOSSES, AttemptRecord
from services.scheduler import placement
from services.scheduler.facts import RequestFacts, WorkerFacts
from services.scheduler.placement import Choice
from services.scheduler.waiting import Waiting

MOST_KEPT: Final = 20
"""Decisions of one request, the latest; of earlier attempts only the facts of the attempt remain."""

MOST_ATTEMPTS: Final = 100
"""Of one request; those that count against it are never left out."""

OWN_COUNTERS: Final = frozenset({"organization", "key"})


class _Candidate(msgspec.Struct, omit_defaults=True):
    worker_id: str
    node: str
    facts: WorkerFacts
    refused_by: str | None = None
    scores: dict[str, float] = {}


class _Decision(msgspec.Struct, omit_defaults=True):
    """A ``contracts.Decision``, as it is written: on the way to the first token, so by msgspec."""

    at: float
    waited_seconds: float
    position: int | None
    estimated_wait_seconds: float | None
    counters: Mapping[str, float]
    request: RequestFacts
    considered: int
    candidates: list[_Candidate]
    chosen: str


_encode = msgspec.json.Encoder().encode


def compose(waiting: Waiting, choice: Choice, counters: Mapping[str, float]) -> str:
    """A ``Decision``. ``counters``: ``organization`` and ``key``, its own; ``least``, of all that wait."""
    assert choice.worker is not None
    assert choice.verdict is not None
    now, verdict = time.time(), choice.verdict
    decision = _Decision(
        now,
        round(now - waiting.arrived_at, 4),
        waiting.position,
        waiting.estimated_wait_seconds,
        counters,
        choice.request,
        choice.considered,
        [
            _Candidate(worker.id, worker.heartbeat.node, facts, verdict.refusals[place], verdict.scores.get(place, {}))
            for place, (worker, facts) in enumerate(zip(choice.workers, choice.facts, strict=True))
        ],
        choice.worker.id,
    )
    return _encode(decision).decode()


def without_others(decision: Decision) -> Decision:
    """What the one who asked may know of it: not how much others have been served."""
    own = {account: count for account, count in decision.counters.items() if account in OWN_COUNTERS}
    return decision.model_copy(update={"counters": own})


def keep(attempts: tuple[AttemptRecord, ...], attempt: AttemptRecord) -> tuple[AttemptRecord, ...]:
    """All attempts with this new one. A request that is moved without end does not grow without end."""
    kept = (*attempts, attempt)
    if len(kept) > MOST_ATTEMPTS:
        gone = next(number for number, each in enumerate(kept) if each.ended not in LOSSES)
        kept = (*kept[:gone], *kept[gone + 1 :])
    if len(kept) <= MOST_KEPT:
        return kept
    old = (each.model_copy(update={"decision_json": ""}) for each in kept[:-MOST_KEPT])
    return (*old, *kept[-MOST_KEPT:])


def decide_again(decision: Decision) -> list[str]:
    """What the rules say differently now, from the facts that were kept; nothing if it is the same answer."""
    request = msgspec.convert(decision.request, RequestFacts)
    workers = [msgspec.convert(candidate.facts, WorkerFacts) for candidate in decision.candidates]
    verdict = placement.decide(request, workers)
    chosen = None if verdict.chosen is None else decision.candidates[verdict.chosen].worker_id
    differences = [] if chosen == decision.chosen else [f"chosen: {decision.chosen}, now {chosen}"]
    for place, candidate in enumerate(decision.candidates):
        refused_by, scores = verdict.refusals[place], verdict.scores.get(place, {})
        if candidate.refused_by != refused_by:
            differences.append(f"{candidate.worker_id}: refused by {candidate.refused_by}, now by {refused_by}")
        if candidate.scores != scores:
            differences.append(f"{candidate.worker_id}: scores {candidate.scores}, now {scores}")
    return differences
