"""Weights in fewer bits, by the engine's own quantizers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from libs.common.errors import InvalidRequest
from services.registry.conversion import child

QUANTIZABLE: Final = frozenset({"F16", "BF16", "F32"})
SUPPORTED: Final = ("F32", "F16", "BF16", "Q4_K_S", "Q4_K_M", "Q8_0")
ALIASES: Final = {"Q4_K": "Q4_K_M"}
LARGEST_MEMORY_BYTES: Final = 4 << 30
"""Large vocabularies take some hundred MiB; a file that asks for more is made to do harm."""

NOT_GGUF: Final = "supplied file was not in GGUF format"


def target_type(wanted: str) -> str:
    """The type that a client means. Raises ``InvalidRequest``."""
    name = ALIASES.get(wanted.upper(), wanted.upper())
    if name not in SUPPORTED:
        told = "F32, F16, Q4_K_S, Q4_K_M, Q8_0"
        raise InvalidRequest(f"unsupported quantization type {wanted} - supported types are {told}")
    return name


async def rewrite(
    sources: Sequence[Path],
    target: Path,
    file_type: str | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """The shards of a model as one file; ``on_progress`` gets the bytes read, of all. Raises ``InvalidRequest``."""

    def on_line(line: str) -> None:
        done, total = line.split()
        on_progress(int(done), int(total))

    program = ["-P", "-m", "services.registry.conversion.rewrite"]
    arguments: list[str | Path] = [*program, target, file_type or "-", *sources]
    await child.run(arguments, on_line, memory_bytes=LARGEST_MEMORY_BYTES, not_understood=NOT_GGUF)
