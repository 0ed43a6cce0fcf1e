"""Arithmetic of embeddings."""

import math
from collections.abc import Sequence

from libs.common.contracts.inference import InferenceTask


def finished(vector: Sequence[float], task: InferenceTask) -> list[float]:
    """The first entries that the task wants (all, if it has no more), at its length; a zero vector stays zero."""
    cut = list(vector[: task.dimensions] if task.dimensions else vector)
    return normalise(cut) if task.normalise else cut


def normalise(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in vector)) or 1.0
    return [x / length for x in vector]
