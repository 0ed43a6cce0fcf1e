"""The parts a blob is fetched in, and the file beside it that remembers them over the death of a process."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MOST_STATE_BYTES = 1 << 20


@dataclass
class Part:
    """In bytes; ``completed`` of them, from the first, are in the file."""

    offset: int
    size: int
    completed: int = 0


def plan(total: int, count: int, least: int, most: int) -> list[Part]:
    """About ``count`` parts, of ``least`` to ``most`` bytes each; the last one may be smaller."""
    size = min(max(-(-total // count), least), most)
    return [Part(offset, min(size, total - offset)) for offset in range(0, total, size)]


def completed(parts: Sequence[Part]) -> int:
    return sum(part.completed for part in parts)


def save(path: Path, parts: Sequence[Part]) -> None:
    """All or nothing, as seen by who reads it after us. Raises ``OSError``."""
    new = path.with_name(f"{path.name}-new")
    new.write_text(json.dumps([asdict(part) for part in parts]))
    new.replace(path)


def load(path: Path, total: int) -> list[Part] | None:
    """None if nothing usable is remembered. Raises ``OSError``."""
    try:
        with path.open() as file:
            parts = [Part(**entry) for entry in json.loads(file.read(MOST_STATE_BYTES))]
            return parts if _cover(parts, total) else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _cover(parts: Sequence[Part], total: int) -> bool:
    end = 0
    for part in parts:
        if part.offset != end or not 0 <= part.completed <= part.size:
            return False
        end += part.size
    return end == total
