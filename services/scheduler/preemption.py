"""Who waits may take the slot of somebody less urgent, who goes on later from the log.

Only the worker knows how well a request has got on, so its heartbeats say which ones may be preempted.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog
from msgspec import structs
from prometheus_client import Counter

from libs.common.contracts.inference import Priority
from libs.common.contracts.scheduler.inference import InferencePreempted
from libs.common.errors import Unavailable
from services.scheduler import facts, placement
from services.scheduler.context import Context
from services.scheduler.fleet import Fleet, Worker
from services.scheduler.grants import Grant
from services.scheduler.waiting import ORDER, Lane, Waiting

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.1
"""Between two looks: a burst of requests is one."""

MOST_WAITING: Final = 64
MOST_VICTIMS: Final = 256
"""Looked at in one go."""

_preemptions = Counter("scheduler_preemptions_total", "Requests asked to leave their slot, by priority", ["priority"])


@dataclass(frozen=True)
class Victim:
    """A grant that may be taken back."""

    worker: Worker
    grant: Grant
    priority: Priority


def consider(ctx: Context) -> None:
    """Called after each pass of grants: somebody may still wait."""
    if ctx.waiting:
        ctx.slots_wanted.set()


async def preempt(ctx: Context) -> None:
    """Background loop: look when somebody waits, and again while somebody does."""
    while True:
        await ctx.slots_wanted.wait()
        ctx.slots_wanted.clear()
        look(ctx)
        await asyncio.sleep(LOOK_SECONDS)
        consider(ctx)


def look(ctx: Context) -> None:
    if ctx.wake.is_set():
        return  # who has just come may find a slot by itself
    if not (victims := victims_of(ctx.fleet, ctx.preempted)):
        return
    served = set(ctx.preempted.values())
    waiting = islice(ctx.waiting.in_order(), MOST_WAITING)
    for each, victim in pair(waiting, victims, ctx.fleet, served):
        ctx.preempted[victim.grant.request_id] = each.request.request_id
        ctx.tasks.start(_ask(ctx, victim), "preempt")


def victims_of(fleet: Iterable[Worker], asked: Collection[str]) -> list[Victim]:
    """The least urgent first; of those the one that has been served for the shortest time."""
    found = [
        Victim(worker, grant, entry.priority)
        for worker in fleet
        for entry in worker.heartbeat.running
        if entry.preemptible and entry.priority != "interactive" and entry.request_id not in asked
        if (grant := worker.grants.get(entry.request_id)) is not None and grant.epoch == entry.epoch
    ]
    found.sort(key=lambda victim: (-ORDER.index(victim.priority), -victim.grant.granted_at))
    return found[:MOST_VICTIMS]


def pair(
    waiting: Iterable[Waiting], victims: list[Victim], fleet: Fleet, served: Collection[str]
) -> Iterator[tuple[Waiting, Victim]]:
    """One victim at most for each that waits; ``served`` have been given theirs already."""
    left, in_vain = list(victims), set[tuple[Lane, Priority]]()
    for each in waiting:
        kind = each.lane, each.request.priority
        if each.request.request_id in served or kind in in_vain:
            continue
        found = _first_that_helps(each, left, fleet)
        if found is None:
            in_vain.add(kind)
            continue
        left.remove(found)
        yield each, found


def _first_that_helps(waiting: Waiting, victims: list[Victim], fleet: Fleet) -> Victim | None:
    """Of one worker's victims of the same model and class one is looked at: the others would help no more."""
    in_vain: set[tuple[str, str, Priority]] = set()
    for victim in victims:
        alike = victim.worker.id, victim.grant.runner, victim.priority
        if alike not in in_vain:
            if _helps(waiting, victim, fleet):
                return victim
            in_vain.add(alike)
    return None


def _helps(waiting: Waiting, victim: Victim, fleet: Fleet) -> bool:
    """Could it be granted to the victim's worker, were the victim gone?"""
    request = waiting.request
    if ORDER.index(request.priority) >= ORDER.index(victim.priority):
        return False
    asked = facts.of_request(request, fleet, alone=waiting.lane.alone)
    known = facts.of_worker(request, victim.worker, asked, fleet)
    return placement.decide(asked, [_without(victim, known, request.model.runner)]).chosen is not None


def _without(victim: Victim, known: facts.WorkerFacts, runner: str) -> facts.WorkerFacts:
    worker, left = victim.worker, victim.grant.runner
    idles = worker.granted_to(left) == 1
    known = structs.replace(known, granted=known.granted - 1, models_in_use=known.models_in_use - idles)
    if left == runner:
        known.model_granted -= 1
    elif idles and known.free_bytes is not None and (loaded := worker.loaded.get(left)) is not None:
        known.busy_bytes -= loaded.size
        known.idle_bytes += loaded.size
    return known


async def _ask(ctx: Context, victim: Victim) -> None:
    """Never waited for: if it comes to nothing, somebody is asked again."""
    log.info("preempting", request_id=victim.grant.request_id, epoch=victim.grant.epoch, priority=victim.priority)
    try:
        await ctx.bus.publish(InferencePreempted(request_id=victim.grant.request_id, epoch=victim.grant.epoch))
    except Unavailable as error:
        log.warning("could not preempt", request_id=victim.grant.request_id, error=error.message)
        return
    _preemptions.labels(victim.priority).inc()
