"""Room for one more model: a place and memory, and which idle models must leave for it."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import structlog

from libs.common.errors import ModelLoadFailed
from services.worker.entry import Entry
from services.worker.memory import available_bytes

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Bounds:
    """Of what is in memory at once. ``memory_bytes`` 0: whatever is ``available``."""

    models: int
    memory_bytes: int = 0
    available: Callable[[], int] = available_bytes


class Room:
    """Counts what the models in memory leave, with those on their way there and on their way out."""

    def __init__(self, bounds: Bounds, on_left: Callable[[], None] = lambda: None) -> None:
        self._bounds = bounds
        self._on_left = on_left
        self._promised: dict[str, int] = {}
        """To the load of a runner, which may not have taken it yet."""

        self._closings: set[asyncio.Task[None]] = set()

    def free_bytes(self, loaded: Collection[Entry]) -> int:
        """Negative when there is less than what was promised. Weights are mapped, and counted as available by those
        who tell what is."""
        machine = self._bounds.available() - sum(entry.weights_bytes for entry in loaded)
        ours = self._bounds.memory_bytes - sum(entry.memory_bytes for entry in loaded)
        return (min(machine, ours) if self._bounds.memory_bytes else machine) - sum(self._promised.values())

    def evictions(self, needed: int, loaded: Collection[Entry], idle: Iterable[Entry]) -> list[Entry] | None:
        """Who must go, idle longest first, so that there is a place and ``needed`` bytes. None: that would not do."""
        places = self._bounds.models - len(loaded) - len(self._promised)
        free = self.free_bytes(loaded)
        going: list[Entry] = []
        for entry in sorted(idle, key=lambda entry: entry.idle_since):
            if places > 0 and needed <= max(0, free):
                break
            going.append(entry)
            places, free = places + 1, free + entry.memory_bytes
        return going if places > 0 and needed <= max(0, free) else None

    def promise(self, runner: str, needed: int) -> None:
        self._promised[runner] = needed

    def settle(self, runner: str) -> None:
        """Its load has ended: what it took shows elsewhere."""
        del self._promised[runner]

    def check(self, runner: str, loaded: Collection[Entry]) -> None:
        """Raises ``ModelLoadFailed``, in Ollama's words, if what was promised is not there."""
        needed = self._promised[runner]
        free = max(0, self.free_bytes(loaded) + needed)
        if needed > free:
            raise ModelLoadFailed(
                f"model requires more system memory ({_as_text(needed)}) than is available ({_as_text(free)})"
            )

    @property
    def promised(self) -> Collection[str]:
        """Runners whose loads are under way."""
        return self._promised.keys()

    @property
    def leaving(self) -> bool:
        """Whether memory is just about to be free."""
        return bool(self._closings)

    def leave(self, entry: Entry) -> None:
        closing = asyncio.create_task(entry.engine.close(), name=f"close {entry.model.name}")
        self._closings.add(closing)
        closing.add_done_callback(self._left)

    def _left(self, closing: asyncio.Task[None]) -> None:
        self._closings.discard(closing)
        self._on_left()
        if not closing.cancelled() and (error := closing.exception()):
            log.error("could not close a model", exc_info=error)

    async def all_left(self) -> None:
        if self._closings:
            await asyncio.wait(self._closings)


def _as_text(count: int) -> str:
    """As 5.1 GiB."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"
