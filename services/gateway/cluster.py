"""What the live workers have in memory, as their heartbeats say."""

import asyncio
from collections.abc import Iterable

from libs.common.contracts.worker import LoadedModel, WorkerHeartbeat

SILENCE_SECONDS = 5.0
HEARTBEAT_COMES_SECONDS = 1.5


class Cluster:
    """Times are seconds of one monotonic clock, handed in."""

    def __init__(self) -> None:
        self._workers: dict[str, tuple[WorkerHeartbeat, float]] = {}
        self._expected: dict[str, float] = {}
        self._heard = asyncio.Event()

    def hear(self, heartbeat: WorkerHeartbeat, now: float) -> None:
        if heartbeat.state == "offline":
            self._workers.pop(heartbeat.worker_id, None)
        else:
            self._workers[heartbeat.worker_id] = (heartbeat, now)
        silent = [worker_id for worker_id, (_, heard_at) in self._workers.items() if now - heard_at > SILENCE_SECONDS]
        for worker_id in silent:
            del self._workers[worker_id]
        for model in heartbeat.loaded:
            self._expected.pop(model.runner, None)
        self._heard.set()

    def expect(self, runner: str, now: float) -> None:
        """A worker has just loaded this model: its next heartbeat will say so."""
        self._expected[runner] = now + HEARTBEAT_COMES_SECONDS

    async def settle(self, now: float) -> None:
        """Wait for the heartbeats we expect, so that a model is listed as soon as its load was answered."""
        self._expected = {runner: until for runner, until in self._expected.items() if until > now}
        if not self._expected:
            return
        try:
            async with asyncio.timeout(max(self._expected.values()) - now):
                while self._expected:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return

    def loaded(self, now: float) -> list[LoadedModel]:
        """One row per model, the one that stays longest; latest expiry first."""
        alive = (beat for beat, heard_at in self._workers.values() if now - heard_at <= SILENCE_SECONDS)
        return _merged(model for heartbeat in alive for model in heartbeat.loaded)


def _merged(models: Iterable[LoadedModel]) -> list[LoadedModel]:
    by_expiry = sorted(models, key=_expiry)
    return sorted({model.runner: model for model in by_expiry}.values(), key=_expiry, reverse=True)


def _expiry(model: LoadedModel) -> float:
    return float("inf") if model.expires_at is None else model.expires_at
