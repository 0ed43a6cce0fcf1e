"""Arithmetic of embeddings."""

import math
from collections.abc import Iterable, Sequence

from libs.common.contracts.inference import InferenceTask


def finished(vector: Sequence[float], task: InferenceTask) -> list[float]:
    """The first entries that the task wants (all, if it has no more), at its length; a zero vector stays zero."""
    cut = list(vector[: task.dimensions] if task.dimensions else vector)
    return normalise(cut) if task.normalise else cut


def cosines(vector: Sequence[float], others: Iterable[Sequence[float]]) -> list[float]:
    """-1 to 1 each, of vectors of length one."""
    return [math.fsum(a * b for a, b in zip(vector, other, strict=True)) for other in others]


def normalise(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in vector)) or 1.0
    return [x / length for x in vector]
