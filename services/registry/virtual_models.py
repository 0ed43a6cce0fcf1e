"""Models that workers serve without weights of ours: known from heartbeats, forgotten soon after the last one."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from libs.common.contracts.inference import ModelDetails, ModelRef
from libs.common.contracts.registry import ModelDescription, ModelSummary
from libs.common.contracts.worker import VirtualModel, WorkerHeartbeat
from libs.common.errors import InvalidModelName
from services.registry import names
from services.registry.names import ModelName

# Heartbeats are a second apart.
SILENCE_SECONDS = 5.0
FIRST_ROUND_SECONDS = 1.5
"""A registry that has just started hears every worker once before it says that nobody serves a name."""
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Announcement:
    models: tuple[VirtualModel, ...]
    until: float
    """In seconds of the clock."""


class VirtualModels:
    """What workers announce. ``since``, the start of this process, is told as the time they were modified."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._workers: dict[str, Announcement] = {}
        self._settled_at = 0.0
        self._connections: Callable[[], int] = lambda: 0
        self._heard_through = 0
        self.since = time.time()

    def begin(self, connections: Callable[[], int]) -> None:
        """Heartbeats are heard from now on, through the connection of this number."""
        self._connections, self._heard_through = connections, connections()
        self._settled_at = self._clock() + FIRST_ROUND_SECONDS

    @property
    def settled(self) -> bool:
        return self._clock() >= self._settled_at

    async def wait_for_first_round(self) -> None:
        await asyncio.sleep(max(0.0, self._settled_at - self._clock()))

    def hear(self, heartbeat: WorkerHeartbeat) -> None:
        now = self._clock()
        self._excuse_silence(now)
        self._workers = {worker: said for worker, said in self._workers.items() if said.until > now}
        if heartbeat.state == "offline":
            self._workers.pop(heartbeat.worker_id, None)
        else:
            self._workers[heartbeat.worker_id] = Announcement(heartbeat.virtual_models, now + SILENCE_SECONDS)

    def resolve(self, name: ModelName) -> ModelRef | None:
        """Under the name that its pattern matches, since that is how a worker for it is found."""
        for known_as in (name.short, name.display):
            for model in self._announced():
                if fnmatchcase(known_as, model.pattern):
                    return _reference(known_as, name, model)
        return None

    def summaries(self) -> list[ModelSummary]:
        """Of those with one name; a pattern with wildcards stands for names that nobody can list."""
        found: dict[str, ModelSummary] = {}
        for model in self._announced():
            name = _only_name(model)
            if name is not None:
                found[name.display] = _summary(name, _reference(name.display, name, model), self.since)
        return list(found.values())

    def summarize(self, name: ModelName) -> ModelSummary | None:
        ref = self.resolve(name)
        return None if ref is None else _summary(name, ref, self.since)

    def describe(self, name: ModelName) -> ModelDescription | None:
        ref = self.resolve(name)
        if ref is None:
            return None
        info: dict[str, object] = {"general.architecture": ref.engine}
        if ref.context_length:
            info[f"{ref.engine}.context_length"] = ref.context_length
        return ModelDescription(
            name=name.display,
            modified_at=self.since,
            details=ref.details,
            model_info=info,
            capabilities=ref.capabilities,
        )

    def _announced(self) -> Iterator[VirtualModel]:
        now = self._clock()
        self._excuse_silence(now)
        for said in self._workers.values():
            if said.until > now:
                yield from said.models

    def _excuse_silence(self, now: float) -> None:
        """After a lost connection: we could not hear, and the workers may be back a moment later than we."""
        if self._heard_through != self._connections():
            self._heard_through = self._connections()
            until = now + SILENCE_SECONDS
            self._workers = {worker: replace(said, until=until) for worker, said in self._workers.items()}


def _only_name(model: VirtualModel) -> ModelName | None:
    if WILDCARDS & set(model.pattern):
        return None
    try:
        return names.parse(model.pattern)
    except InvalidModelName:
        return None


def _reference(known_as: str, name: ModelName, model: VirtualModel) -> ModelRef:
    return ModelRef(
        name=known_as,
        digest=hashlib.sha256(name.display.encode()).hexdigest(),
        engine=model.engine,
        capabilities=model.capabilities,
        context_length=model.context_length,
        details=ModelDetails(family=model.engine, families=(model.engine,), context_length=model.context_length),
        shared=True,
    )


def _summary(name: ModelName, ref: ModelRef, modified_at: float) -> ModelSummary:
    return ModelSummary(
        name=name.display,
        digest=ref.digest,
        size=ref.size,
        modified_at=modified_at,
        details=ref.details,
        capabilities=ref.capabilities,
    )
