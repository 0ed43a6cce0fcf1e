"""What is in memory: one load per model however many wait, slots, and what to evict when."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from cachetools import TTLCache

from libs.common.contracts.inference import EngineName, ModelRef
from libs.common.contracts.worker import LoadedModel
from libs.common.errors import ModelLoadFailed
from libs.common.single_flight import SingleFlight
from services.worker.context_policy import ContextPolicy
from services.worker.engines.base import Engine, LoadedEngine, LoadSpec
from services.worker.entry import Entry, memory_needed
from services.worker.room import Bounds, Room

log = structlog.get_logger(__name__)

TOO_LONG_SECONDS = 60.0
"""A context that could not be loaded is not tried again for this long where that would unload a shorter one."""


class Weights(Protocol):
    async def fetch(self, digest: str, in_use: Callable[[], Collection[str]]) -> Path:
        """The verified file of a blob. Others, but those that are ``in_use``, may be deleted for it."""


class EngineMap(Protocol):
    def __getitem__(self, name: EngineName, /) -> Engine:
        """Raises ``KeyError`` for an engine this worker does not offer."""


@dataclass(frozen=True)
class Limits:
    """``keep_alive_seconds`` is the default; negative: for ever."""

    room: Bounds
    slots_per_model: int
    context: ContextPolicy
    keep_alive_seconds: float


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
        self._entries: dict[str, Entry] = {}
        self._waiting: dict[str, list[int]] = {}
        """By runner: the context each of those who wait for it needs."""

        self._too_long: TTLCache[str, int] = TTLCache(maxsize=1000, ttl=TOO_LONG_SECONDS, timer=clock)
        self._loads: SingleFlight[str, None] = SingleFlight(on_done=self._notify)
        self._kept: dict[str, float] = {}
        """How long to keep runners that are on their way, in seconds, where that is not the default."""

        self._room = Room(limits.room, on_left=self._notify)
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def use(self, model: ModelRef, num_ctx: int) -> AsyncIterator[LoadedEngine]:
        """A slot of the model, loaded first if it must be. Waits while all its slots, or all places, are taken.

        Waits also, with everybody else who comes, for those who run while it has to be loaded with a longer context.
        ``num_ctx`` 0: the default. Raises ``ModelLoadFailed``, and ``Unavailable`` if the registry cannot be asked.
        """
        entry = await self._acquire(model, self._limits.context.length(model, num_ctx))
        entry.running += 1
        entry.names.note(model)
        self._notify()
        try:
            yield entry.engine
        finally:
            entry.running -= 1
            entry.idle_since = self._clock()
            self.expire()
            self._notify()

    async def _acquire(self, model: ModelRef, context_length: int) -> Entry:
        runner = model.runner
        self._waiting.setdefault(runner, []).append(context_length)
        try:
            while True:
                self._drop_dead()
                entry, wanted = self._entries.get(runner), self._longest_wanted(runner)
                if entry is not None and entry.context_length >= wanted:
                    if entry.context_length < context_length:
                        raise ModelLoadFailed(f"a context of {context_length} tokens could not be loaded a moment ago")
                    if entry.running < entry.engine.slots:
                        return entry
                elif await self._load_once(model, wanted or context_length, context_length):
                    continue
                await self._changed.wait()
        finally:
            self._waiting[runner].remove(context_length)
            if not self._waiting[runner]:
                del self._waiting[runner]
            self._notify()

    def _longest_wanted(self, runner: str) -> int:
        """Of those who wait, so that it is loaded once for all of them; 0 if all that is wanted has just failed."""
        bound = self._too_long.get(runner, float("inf"))
        return max((each for each in self._waiting[runner] if each < bound), default=0)

    async def _load_once(self, model: ModelRef, wanted: int, needed: int) -> bool:
        """Load it, or wait for the load that is under way; False while it is in use, or there is no place for it.

        Raises ``ModelLoadFailed`` if not even ``needed`` tokens of context could be loaded.
        """
        if (outgrown := self._entries.get(model.runner)) is not None:
            if outgrown.running:
                return False
            self._kept[model.runner] = outgrown.keep_alive_seconds
            self._drop(outgrown, "a longer context is wanted")
        if model.runner not in self._loads:
            needed_bytes = memory_needed(model, wanted, self._limits.slots_per_model)
            if not self._make_room(needed_bytes):
                return False
            self._room.promise(model.runner, needed_bytes)
        try:
            await self._loads.run(model.runner, partial(self._load, model, wanted))
        except ModelLoadFailed:
            if needed >= self._too_long.get(model.runner, 0):
                raise
        return True

    def _make_room(self, needed_bytes: int) -> bool:
        """Whether there is. If not, idle models are evicted where that helps; wait until they, or those in use, left.

        What there is not the memory for even without any of them is loaded, too: its load says what is missing.
        """
        loaded = self._entries.values()
        going = self._room.evictions(needed_bytes, loaded, filter(self._is_idle, loaded))
        if going == []:
            return True
        if self._room.leaving:
            return False
        if going is None:
            return not self._loads and self._room.evictions(needed_bytes, loaded, loaded) is None
        for entry in going:
            self._drop(entry, "room is needed")
        return False

    def _is_idle(self, entry: Entry) -> bool:
        """Nobody uses it and nobody is about to."""
        return not entry.running and entry.model.runner not in self._waiting

    async def _load(self, model: ModelRef, context_length: int) -> None:
        began = self._clock()
        try:
            await self._room.all_left()  # their memory is needed
            self._room.check(model.runner, self._entries.values())
            engine = await self._engine(model.engine).load(await self._spec(model, context_length))
        except ModelLoadFailed:
            self._too_long[model.runner] = context_length
            raise
        finally:
            keep_alive_seconds = self._kept.pop(model.runner, self._limits.keep_alive_seconds)
            self._room.settle(model.runner)
        if context_length >= self._too_long.get(model.runner, context_length + 1):
            del self._too_long[model.runner]  # it was something else that failed
        now = self._clock()
        self._entries[model.runner] = Entry(model, engine, context_length, keep_alive_seconds, idle_since=now)
        self._on_change()
        log.info("model loaded", model=model.name, seconds=round(now - began, 3), context_length=context_length)

    async def _spec(self, model: ModelRef, context_length: int) -> LoadSpec:
        digests = [digest for digest in (model.weights, model.projector, *model.adapters) if digest]
        fetched = await asyncio.gather(*(self._weights.fetch(digest, self.blobs_in_use) for digest in digests))
        files = dict(zip(digests, fetched, strict=True))
        return LoadSpec(
            model,
            files.get(model.weights or ""),
            context_length,
            self._limits.slots_per_model,
            projector=files.get(model.projector or ""),
            adapters=tuple(files[digest] for digest in model.adapters),
        )

    def _engine(self, name: EngineName) -> Engine:
        try:
            return self._engines[name]
        except KeyError:
            raise ModelLoadFailed(f"this worker does not offer the engine {name}") from None

    def _drop_dead(self) -> None:
        for entry in list(self._entries.values()):
            if reason := entry.engine.failure():
                self._drop(entry, reason)

    def _drop(self, entry: Entry, reason: str) -> None:
        log.info("model unloaded", model=entry.model.name, reason=reason)
        del self._entries[entry.model.runner]
        self._room.leave(entry)
        self._notify()
        self._on_change()

    def _notify(self) -> None:
        """Wake everybody who waits for something to be different."""
        self._changed.set()
        self._changed = asyncio.Event()

    def keep(self, runner: str, seconds: float) -> bool:
        """How long it stays when it is idle: 0 not at all, negative for ever. The last writer wins.

        False if that is nothing new; a model that is not in memory, nor on its way there, is left alone.
        """
        if runner in self._loads:
            self._kept[runner] = seconds
        entry = self._entries.get(runner)
        if entry is None or entry.keep_alive_seconds == seconds:
            return False
        entry.keep_alive_seconds = seconds
        self.expire()
        self._notify()
        return True

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

    def _due(self, entry: Entry) -> float | None:
        return entry.expires_at(self._clock()) if self._is_idle(entry) else None

    def snapshot(self) -> tuple[LoadedModel, ...]:
        now = self._clock()
        alive = [entry for entry in self._entries.values() if entry.engine.failure() is None]
        return tuple(self._describe(entry, now) for entry in alive)

    @staticmethod
    def _describe(entry: Entry, now: float) -> LoadedModel:
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
            used_as=entry.names.all(),
        )

    def available_bytes(self) -> int:
        """What one more model could take, if none left for it. At least 1, as 0 would say that nobody knows."""
        return max(1, self._room.free_bytes(self._entries.values()))

    def blobs_in_use(self) -> set[str]:
        """Digests of the files that models in memory were loaded from, or are being loaded from."""
        return {digest for runner in (*self._entries, *self._room.promised) for digest in runner.split("+")}

    async def aclose(self) -> None:
        """Give up loads and close every engine."""
        await self._loads.close()
        for entry in list(self._entries.values()):
            self._drop(entry, "the worker stops")
        await self._room.all_left()
