"""What the live workers have in memory, as their heartbeats say."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from uuid import uuid4

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.worker import LoadedModel, ModelInUse, WorkerHeartbeat
from services.gateway.models import display_name
from services.gateway.permissions import may_see

SILENCE_SECONDS = 5.0
ANSWER_SECONDS = 3.0
"""When the scheduler takes it for lost, too. A worker that is only slow is waited for: else it is told as it was."""


class Cluster:
    """Times are seconds of one monotonic clock, handed in."""

    def __init__(self) -> None:
        self._workers: dict[str, tuple[WorkerHeartbeat, float]] = {}
        self._unanswered: dict[str, set[str]] = {}
        """By mark: the workers that have not answered with it yet."""

        self._heard = asyncio.Event()

    def hear(self, heartbeat: WorkerHeartbeat, now: float) -> None:
        if heartbeat.state == "offline":
            self._workers.pop(heartbeat.worker_id, None)
        else:
            self._workers[heartbeat.worker_id] = (heartbeat, now)
        silent = [worker_id for worker_id, (_, heard_at) in self._workers.items() if now - heard_at > SILENCE_SECONDS]
        for worker_id in silent:
            del self._workers[worker_id]
        for mark, workers in self._unanswered.items():
            workers.intersection_update(self._workers)
            if mark in heartbeat.marks:
                workers.discard(heartbeat.worker_id)
        self._heard.set()

    async def poll(self, announce: Callable[[str], Awaitable[None]]) -> None:
        """Announce an event to all workers, and wait until each has answered with its mark or that time has passed.

        What ``loaded`` tells then is true at least from when the event was announced, whoever asked for a load or an
        unload before, through whichever gateway. Raises what ``announce`` raises.
        """
        mark = uuid4().hex
        unanswered = self._unanswered[mark] = set(self._workers)
        try:
            await announce(mark)
            async with asyncio.timeout(ANSWER_SECONDS):
                while unanswered:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return  # a worker that hangs; it will be taken for lost
        finally:
            del self._unanswered[mark]

    def loaded(self, now: float, caller: Identity) -> list[LoadedModel]:
        """Those the caller may know of, under their names for it.

        One row per model, the one that stays longest; latest expiry first.
        """
        alive = (beat for beat, heard_at in self._workers.values() if now - heard_at <= SILENCE_SECONDS)
        seen = (_as_seen(model, caller) for heartbeat in alive for model in heartbeat.loaded)
        return _merged(model for model in seen if model is not None)


def _as_seen(model: LoadedModel, caller: Identity) -> LoadedModel | None:
    for use in model.used_as or (ModelInUse(name=model.name, digest=model.digest, details=model.details),):
        theirs = use.shared or use.organization_id == caller.organization_id
        if theirs and may_see(caller, display_name(use.name)):
            return model.model_copy(update={"name": use.name, "digest": use.digest, "details": use.details})
    return None


def _merged(models: Iterable[LoadedModel]) -> list[LoadedModel]:
    by_expiry = sorted(models, key=_expiry)
    return sorted({model.runner: model for model in by_expiry}.values(), key=_expiry, reverse=True)


def _expiry(model: LoadedModel) -> float:
    return float("inf") if model.expires_at is None else model.expires_at
