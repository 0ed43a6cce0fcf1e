"""How much memory a model will take once it is loaded. One formula: the scheduler places by it, the worker obeys it."""

from typing import Final

WORKING_BYTES: Final = 128 << 20
"""The process of an engine and its buffers for one batch."""


def bytes_needed(size: int, kv_bytes_per_token: int, context_length: int, slots: int) -> int:
    """For weights of ``size`` bytes and the attention cache of ``slots`` contexts. 0: nothing of ours is loaded.

    Both may be 0 for not known; then it is less than it will be.
    """
    return size + kv_bytes_per_token * context_length * slots + WORKING_BYTES if size else 0
