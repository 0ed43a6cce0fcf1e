"""What is in memory: one load per model however many wait, slots, and what to evict when."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from libs.common.contracts.inference import EngineName, ModelRef
from libs.common.contracts.worker import LoadedModel
from libs.common.errors import ModelLoadFailed
from libs.common.single_flight import SingleFlight
from services.worker.engines.base import Engine, LoadedEngine, LoadSpec

log = structlog.get_logger(__name__)


class Weights(Protocol):
    async def fetch(self, digest: str) -> Path:
        """The verified file of a blob."""


class EngineMap(Protocol):
    def __getitem__(self, name: EngineName, /) -> Engine:
        """Raises ``KeyError`` for an engine this worker does not offer."""


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens per slot. ``keep_alive_seconds`` is the default; negative: for ever."""

    max_loaded: int
    slots_per_model: int
    context_length: int
    max_context_length: int
    keep_alive_seconds: float


@dataclass
class _Entry:
    """A model in memory. ``idle_since`` counts only while nothing runs."""

    model: ModelRef
    engine: LoadedEngine
    keep_alive_seconds: float
    idle_since: float
    running: int = 0

    def expires_at(self, now: float) -> float | None:
        if self.keep_alive_seconds < 0:
            return None
        return (now if self.running else self.idle_since) + self.keep_alive_seconds


class LoadedModels:
    """Models in memory and who uses them. All state changes happen between two awaits, so that no lock is needed."""

    def __init__(
        self,
        engines: EngineMap,
        weights: Weights,
        limits: Limits,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engines = engines
        self._weights = weights
        self._limits = limits
        self._on_change = on_change
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._waiting: Counter[str] = Counter()
        self._loads: SingleFlight[str, None] = SingleFlight(on_done=self._notify)
        self._closings: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def use(self, model: ModelRef, num_ctx: int, keep_alive_seconds: float | None) -> AsyncIterator[LoadedEngine]:
        """A slot of the model, loaded first if it must be. Waits while all its slots, or all places, are taken.

        ``num_ctx`` 0: the default. ``keep_alive_seconds`` None leaves it as it is; the last writer wins.
        Raises ``ModelLoadFailed``, and ``Unavailable`` if the registry cannot be asked.
        """
        entry = await self._acquire(model, self._context_for(model, num_ctx))
        entry.running += 1
        if keep_alive_seconds is not None:
            entry.keep_alive_seconds = keep_alive_seconds
        self._notify()
        try:
            yield entry.engine
        finally:
            entry.running -= 1
            entry.idle_since = self._clock()
            self.expire()
            self._notify()

    async def _acquire(self, model: ModelRef, context_length: int) -> _Entry:
        self._waiting[model.runner] += 1
        try:
            while True:
                entry = self._current(model.runner, context_length)
                if entry is not None and entry.running < entry.engine.slots:
                    return entry
                if entry is None and (model.runner in self._loads or self._make_room()):
                    await self._loads.run(model.runner, partial(self._load, model, context_length))
                else:
                    await self._changed.wait()
        finally:
            self._waiting[model.runner] -= 1
            if not self._waiting[model.runner]:
                del self._waiting[model.runner]
            self._notify()

    def _current(self, runner: str, context_length: int) -> _Entry | None:
        """The model if it is loaded and good enough. A larger context reloads it only while it is idle:
        otherwise two clients with different wishes would reload it in turn."""
        self._drop_dead()
        entry = self._entries.get(runner)
        if entry is not None and entry.running == 0 and entry.engine.context_length < context_length:
            self._drop(entry, "a larger context is wanted")
            return None
        return entry

    def _context_for(self, model: ModelRef, num_ctx: int) -> int:
        wanted = min(max(num_ctx, self._limits.context_length), self._limits.max_context_length)
        return min(wanted, model.context_length) if model.context_length > 0 else wanted

    def _make_room(self) -> bool:
        """Whether there is room for one more, after evicting the model idle longest if that is needed and possible."""
        if len(self._entries) + len(self._loads) < self._limits.max_loaded:
            return True
        idle = [entry for entry in self._entries.values() if self._is_idle(entry)]
        if not idle:
            return False
        self._drop(min(idle, key=lambda entry: entry.idle_since), "room is needed")
        return True

    def _is_idle(self, entry: _Entry) -> bool:
        """Nobody uses it and nobody is about to."""
        return not entry.running and not self._waiting[entry.model.runner]

    async def _load(self, model: ModelRef, context_length: int) -> None:
        if self._closings:
            await asyncio.wait(self._closings)  # their memory is needed
        weights = await self._weights.fetch(model.weights) if model.weights else None
        spec = LoadSpec(model, weights, context_length, self._limits.slots_per_model)
        began = self._clock()
        engine = await self._engine(model.engine).load(spec)
        now = self._clock()
        self._entries[model.runner] = _Entry(model, engine, self._limits.keep_alive_seconds, idle_since=now)
        self._on_change()
        log.info("model loaded", model=model.name, seconds=round(now - began, 3), context_length=context_length)

    def _engine(self, name: EngineName) -> Engine:
        try:
            return self._engines[name]
        except KeyError:
            raise ModelLoadFailed(f"this worker does not offer the engine {name}") from None

    def _drop_dead(self) -> None:
        for entry in list(self._entries.values()):
            if reason := entry.engine.failure():
                self._drop(entry, reason)

    def _drop(self, entry: _Entry, reason: str) -> None:
        log.info("model unloaded", model=entry.model.name, reason=reason)
        del self._entries[entry.model.runner]
        closing = asyncio.create_task(entry.engine.close(), name=f"close {entry.model.name}")
        self._closings.add(closing)
        closing.add_done_callback(self._closed)
        self._notify()
        self._on_change()

    def _closed(self, closing: asyncio.Task[None]) -> None:
        self._closings.discard(closing)
        if not closing.cancelled() and (error := closing.exception()):
            log.error("could not close a model", exc_info=error)

    def _notify(self) -> None:
        """Wake everybody who waits for something to be different."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def unload(self, runner: str) -> None:
        """Drop it as soon as it is idle; a model that is not loaded is left alone."""
        if (entry := self._entries.get(runner)) is not None:
            entry.keep_alive_seconds = 0
            self.expire()

    def expire(self) -> None:
        """Drop what died, and what has been idle for longer than it is kept alive."""
        self._drop_dead()
        for entry in list(self._entries.values()):
            due = self._due(entry)
            if due is not None and due <= self._clock():
                self._drop(entry, "it expired")

    async def keep_expiring(self) -> None:
        """Background loop: ``expire`` when the next model is due, and whenever something changed."""
        while True:
            changed = self._changed
            self.expire()
            now = self._clock()
            due = [at - now for entry in self._entries.values() if (at := self._due(entry)) is not None]
            try:
                await asyncio.wait_for(changed.wait(), timeout=max(0.01, min(due)) if due else None)
            except TimeoutError:
                continue

    def _due(self, entry: _Entry) -> float | None:
        return entry.expires_at(self._clock()) if self._is_idle(entry) else None

    def snapshot(self) -> tuple[LoadedModel, ...]:
        now = self._clock()
        alive = [entry for entry in self._entries.values() if entry.engine.failure() is None]
        return tuple(self._describe(entry, now) for entry in alive)

    @staticmethod
    def _describe(entry: _Entry, now: float) -> LoadedModel:
        return LoadedModel(
            name=entry.model.name,
            digest=entry.model.digest,
            runner=entry.model.runner,
            details=entry.model.details,
            size=entry.engine.size or entry.model.size,
            size_vram=entry.engine.size_vram,
            context_length=entry.engine.context_length,
            slots=entry.engine.slots,
            running=entry.running,
            expires_at=entry.expires_at(now),
        )

    async def aclose(self) -> None:
        """Give up loads and close every engine."""
        await self._loads.close()
        for entry in list(self._entries.values()):
            self._drop(entry, "the worker stops")
        if self._closings:
            await asyncio.wait(self._closings)
