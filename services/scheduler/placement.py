"""Which worker runs a request: filters that say who can, then scores that say who should. Pure.

The rules see facts alone, and the facts are kept with the request: whoever applies the rules to them again gets the
same answer. To add a rule, write a function and put it into its list.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from libs.common.contracts.scheduler.inference import RequestInference
from services.scheduler import facts
from services.scheduler.breaker import Breaker
from services.scheduler.facts import RequestFacts, WorkerFacts
from services.scheduler.fleet import Fleet, Worker

Filter = Callable[[RequestFacts, WorkerFacts], bool]
Score = Callable[[RequestFacts, WorkerFacts, int], float]
"""The number is what the least busy of the workers that pass has to do."""

MUCH_BUSIER: Final = 2
MUCH_BUSIER_TIMES: Final = 1.5
"""A cached beginning counts for nothing where so many more run than on the least busy worker: by both measures."""


def accepts_work(_request: RequestFacts, worker: WorkerFacts) -> bool:
    return worker.state == "active"


def node_takes_work(_request: RequestFacts, worker: WorkerFacts) -> bool:
    return not worker.node_drains


def can_run(_request: RequestFacts, worker: WorkerFacts) -> bool:
    """It has the engine and, for a model without weights of ours, serves that name."""
    return worker.able


def could_fit(_request: RequestFacts, worker: WorkerFacts) -> bool:
    """Into its memory, if every other model left. What is not known is taken to fit."""
    return worker.free_bytes is None or worker.needs_bytes <= worker.free_bytes + worker.idle_bytes + worker.busy_bytes


def has_free_slot(_request: RequestFacts, worker: WorkerFacts) -> bool:
    return worker.granted < worker.slots and worker.model_granted < worker.model_slots


def has_room_for_model(_request: RequestFacts, worker: WorkerFacts) -> bool:
    """It is loaded, on its way, or goes beside the models that are busy; idle ones can be evicted."""
    return worker.at_hand or worker.models_in_use < worker.max_models


def fits_memory(_request: RequestFacts, worker: WorkerFacts) -> bool:
    """Beside the models that are busy and those that are being loaded."""
    if worker.free_bytes is None:
        return True
    return worker.needs_bytes <= worker.free_bytes + worker.idle_bytes - worker.coming_bytes


def alone_if_suspect(request: RequestFacts, worker: WorkerFacts) -> bool:
    return not (request.alone and worker.granted)


def lets_suspects_alone(_request: RequestFacts, worker: WorkerFacts) -> bool:
    return not worker.suspect


def not_reserved(_request: RequestFacts, worker: WorkerFacts) -> bool:
    return worker.reserved != "another"


def worth_a_load(request: RequestFacts, worker: WorkerFacts) -> bool:
    """Another copy of a model, only if this request would wait longer for one that is there than for a load."""
    if worker.at_hand or not request.served:
        return True
    return request.wait_seconds >= request.load_seconds and not worker.failed


def elsewhere_first(request: RequestFacts, worker: WorkerFacts) -> bool:
    """Where a load has failed a moment ago, only if it has failed on all who could run it."""
    return not (worker.failed and request.untried)


def already_loaded(_request: RequestFacts, worker: WorkerFacts, _least: int) -> float:
    return 2.0 if worker.at_hand else 0.0


def context_suffices(_request: RequestFacts, worker: WorkerFacts, _least: int) -> float:
    """A model in use that is loaded with less would first have to be left by all who use it, then loaded again."""
    return -2.0 if worker.must_grow else 0.0


def free_share(_request: RequestFacts, worker: WorkerFacts, _least: int) -> float:
    return 1.0 - worker.granted / worker.slots


def room_without_eviction(_request: RequestFacts, worker: WorkerFacts, _least: int) -> float:
    return 0.5 if worker.models_loaded < worker.max_models else 0.0


def knows_the_beginning(request: RequestFacts, worker: WorkerFacts, least: int) -> float:
    """Of the prompt: its cache may have it. Ignored where one would wait for it among many."""
    much_busier = worker.granted > least + MUCH_BUSIER and worker.granted > MUCH_BUSIER_TIMES * least
    return 0.0 if much_busier or not worker.prefix else 1.5 * worker.prefix / request.prefix


ABILITIES: Final[tuple[Filter, ...]] = (accepts_work, node_takes_work, can_run, could_fit)
FILTERS: Final[tuple[Filter, ...]] = (
    *ABILITIES,
    has_free_slot,
    has_room_for_model,
    fits_memory,
    alone_if_suspect,
    lets_suspects_alone,
    not_reserved,
    elsewhere_first,
    worth_a_load,
)
SCORES: Final[tuple[Score, ...]] = (
    already_loaded,
    context_suffices,
    room_without_eviction,
    knows_the_beginning,
    free_share,
)


@dataclass(frozen=True)
class Verdict:
    """What the rules say of some workers, each known by its place among them."""

    refusals: Sequence[str | None]
    """The first filter that each did not pass."""

    scores: dict[int, dict[str, float]]
    """Of those that passed; what is 0 is left out."""

    chosen: int | None


def decide(request: RequestFacts, workers: Sequence[WorkerFacts]) -> Verdict:
    """From the facts alone: the same ones give the same answer at any time."""
    refusals = [_refusal(request, worker) for worker in workers]
    passed = [place for place, refusal in enumerate(refusals) if refusal is None]
    if not passed:
        return Verdict(refusals, {}, None)
    least = min(workers[place].granted for place in passed)
    scores = {place: _scores(request, workers[place], least) for place in passed}
    return Verdict(refusals, scores, _choose(request, workers, scores))


def _refusal(request: RequestFacts, worker: WorkerFacts) -> str | None:
    for rule in FILTERS:
        if not rule(request, worker):
            return rule.__name__
    return None


def _scores(request: RequestFacts, worker: WorkerFacts, least: int) -> dict[str, float]:
    return {rule.__name__: score for rule in SCORES if (score := rule(request, worker, least))}


def _choose(request: RequestFacts, workers: Sequence[WorkerFacts], scores: dict[int, dict[str, float]]) -> int:
    """The best; where reports are old, of those alike but for their load the better of two drawn at random.

    Several schedulers that trust the same old report would otherwise all choose the same worker.
    """
    totals = {place: sum(each.values()) for place, each in scores.items()}
    best = max(totals, key=totals.__getitem__)
    if request.draw is None:
        return best
    load = free_share.__name__
    apart_from_load = {place: totals[place] - each.get(load, 0.0) for place, each in scores.items()}
    most = max(apart_from_load.values())
    equals = [place for place, rest in apart_from_load.items() if most - rest < 1e-9]
    if len(equals) < 2 or not any(workers[place].stale for place in equals):
        return best
    one = equals.pop(request.draw % len(equals))
    other = equals[(request.draw >> 16) % len(equals)]
    return one if totals[one] >= totals[other] else other


def able(request: RequestInference, workers: Iterable[Worker]) -> bool:
    """Could any of them run it, were it idle?"""
    asked = facts.of_request(request)
    return any(is_able(asked, facts.of_worker(request, worker, asked)) for worker in workers)


@dataclass(frozen=True)
class Choice:
    """Where a request goes, and why: the workers that were looked at, what was known of them, what the rules said."""

    worker: Worker | None
    """None: nobody has a free slot for it now."""

    request: RequestFacts
    workers: Sequence[Worker] = ()
    facts: Sequence[WorkerFacts] = ()
    verdict: Verdict | None = None
    considered: int = 0

    @property
    def has_others(self) -> bool:
        """Could another worker load the model, should it fail to on this one?"""
        if self.worker is None or self.request.runner in self.worker.loaded:
            return False
        others = (each for worker, each in zip(self.workers, self.facts, strict=True) if worker is not self.worker)
        return _some_untried(self.request, others)


def place(
    request: RequestInference,
    workers: Iterable[Worker],
    *,
    alone: bool = False,
    wait_seconds: float = 0.0,
    now: float = 0.0,
    breaker: Breaker | None = None,
) -> Choice:
    """The best worker with a free slot now.

    ``alone``: only one on which nothing else runs. ``wait_seconds``: how long it waits, or is expected to.
    ``now`` on the clock of the heartbeats: tells how old they are.
    """
    asked = facts.of_request(request, workers, alone=alone, wait_seconds=wait_seconds)
    for group in _groups(request, workers, asked):
        known = [facts.of_worker(request, worker, asked, workers, now=now, breaker=breaker) for worker in group]
        if any(each.stale for each in known):
            asked.draw = facts.draw()
        if any(each.failed for each in known):
            everybody = (facts.of_worker(request, each, asked, workers, breaker=breaker) for each in workers)
            asked.untried = _some_untried(asked, everybody)
        verdict = decide(asked, known)
        if verdict.chosen is not None:
            considered = len(workers) if isinstance(workers, Fleet) else len(group)
            return Choice(group[verdict.chosen], asked, group, known, verdict, considered)
    return Choice(None, asked)


def refusals(
    request: RequestInference,
    fleet: Fleet,
    workers: Iterable[Worker],
    *,
    alone: bool = False,
    wait_seconds: float = 0.0,
    breaker: Breaker | None = None,
) -> Counter[str]:
    """How many of these workers each rule keeps from running it now."""
    asked = facts.of_request(request, fleet, alone=alone, wait_seconds=wait_seconds)
    known = [facts.of_worker(request, worker, asked, fleet, breaker=breaker) for worker in workers]
    asked.untried = _some_untried(asked, known)
    return Counter(refusal for worker in known if (refusal := _refusal(asked, worker)) is not None)


def _some_untried(request: RequestFacts, workers: Iterable[WorkerFacts]) -> bool:
    """Could one of them run it, on which its model has not failed to load?"""
    return any(not each.failed and is_able(request, each) for each in workers)


def is_able(request: RequestFacts, worker: WorkerFacts) -> bool:
    """Were it idle."""
    return all(rule(request, worker) for rule in ABILITIES)


def _groups(request: RequestInference, workers: Iterable[Worker], asked: RequestFacts) -> Iterator[list[Worker]]:
    if isinstance(workers, Fleet):
        loads = not asked.served or asked.wait_seconds >= asked.load_seconds
        return workers.candidates(request, loads=loads, alone=asked.alone)
    return iter([list(workers)])
