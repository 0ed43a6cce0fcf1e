"""Arithmetic of embeddings."""

import math
from collections.abc import Sequence


def normalise(vector: Sequence[float], dimensions: int | None) -> list[float]:
    """The first ``dimensions`` entries (all, if it has no more), scaled to length 1; a zero vector stays zero."""
    cut = vector[:dimensions] if dimensions else vector
    length = math.sqrt(math.fsum(x * x for x in cut)) or 1.0
    return [x / length for x in cut]
