"""What a model's attention cache takes, from the keys of its GGUF. Pure."""

from collections.abc import Mapping
from typing import Any, Final

BYTES_PER_VALUE: Final = 2
"""llama.cpp keeps keys and values as 16 bit floats."""


MOST_BYTES: Final = 1 << 30
"""More than any model takes, and for any context still a number that fits where numbers go."""


def kv_bytes_per_token(values: Mapping[str, Any]) -> int:
    """For each token of context. 0: not known, or the model keeps nothing. Whoever made the file chose these numbers.

    Sliding windows are not looked at: with them it takes less than this.
    """
    architecture = values.get("general.architecture")
    keys = {key.removeprefix(f"{architecture}."): value for key, value in values.items()}
    if keys.get("attention.causal") is False:
        return 0
    try:
        found = _heads(keys) * _length_of_a_head(keys) * BYTES_PER_VALUE
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return 0
    return max(0, min(found, MOST_BYTES))


def _heads(keys: Mapping[str, Any]) -> int:
    """That keep keys and values, over all layers. Where layers differ there is a number for each."""
    heads = keys.get("attention.head_count_kv", keys["attention.head_count"])
    if isinstance(heads, list):
        return sum(int(count) for count in heads)
    every = int(keys.get("full_attention_interval", 1))
    return int(heads) * int(keys["block_count"]) // every


def _length_of_a_head(keys: Mapping[str, Any]) -> int:
    """Of its key and its value together."""

    def even() -> int:
        return int(keys["embedding_length"]) // int(keys["attention.head_count"])

    key = keys.get("attention.key_length") or even()
    return int(key) + int(keys.get("attention.value_length") or even())
