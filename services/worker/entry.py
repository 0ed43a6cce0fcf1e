"""A model in memory, and under which names, of which organizations: models of the same files share it."""

from dataclasses import dataclass
from typing import Final

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.worker import ModelInUse
from libs.common.memory_estimate import bytes_needed
from services.worker.engines.base import LoadedEngine

MOST_NAMES: Final = 32
"""Told in every heartbeat."""


class NamesInUse:
    def __init__(self, model: ModelRef) -> None:
        self._names: dict[tuple[str, str], ModelInUse] = {}
        self.note(model)

    def note(self, model: ModelRef) -> None:
        """Of too many names the one that came first is forgotten."""
        key = model.organization_id, model.name
        if key not in self._names and len(self._names) == MOST_NAMES:
            del self._names[next(iter(self._names))]
        self._names[key] = ModelInUse(
            name=model.name,
            digest=model.digest,
            details=model.details,
            organization_id=model.organization_id,
            shared=model.shared,
        )

    def all(self) -> tuple[ModelInUse, ...]:
        """First come first."""
        return tuple(self._names.values())


def memory_needed(model: ModelRef, context_length: int, slots: int) -> int:
    """Bytes it takes when it is loaded so; 0 for models without weights of ours."""
    return bytes_needed(weights_bytes(model), model.kv_bytes_per_token, context_length, slots)


def weights_bytes(model: ModelRef) -> int:
    return model.size if model.weights else 0


@dataclass
class Entry:
    """A model in memory. ``idle_since`` counts only while nothing runs."""

    model: ModelRef
    engine: LoadedEngine
    context_length: int
    keep_alive_seconds: float
    idle_since: float
    running: int = 0

    def __post_init__(self) -> None:
        self.names = NamesInUse(self.model)

    @property
    def weights_bytes(self) -> int:
        """Mapped from their files."""
        return weights_bytes(self.model)

    @property
    def memory_bytes(self) -> int:
        return memory_needed(self.model, self.context_length, self.engine.slots)

    def expires_at(self, now: float) -> float | None:
        if self.keep_alive_seconds < 0:
            return None
        return (now if self.running else self.idle_since) + self.keep_alive_seconds
