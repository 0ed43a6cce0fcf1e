"""The parameters of a model: Ollama's option table. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from libs.common.errors import InvalidRequest

INTEGERS: Final = frozenset(
    (
        *("num_ctx", "num_predict", "num_keep", "top_k", "repeat_last_n", "seed"),
        *("num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
    )
)
NUMBERS: Final = frozenset(
    ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
)
BOOLEANS: Final = frozenset(("use_mmap",))
LISTS: Final = frozenset(("stop",))
MOST_PARAMETERS: Final = 1000


def merged(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given comes first. Raises ``InvalidRequest``; names that nobody knows are kept, as Ollama does."""
    if len(base) + len(given) > MOST_PARAMETERS:
        raise InvalidRequest("too many parameters")
    checked = {name: _checked(name, value) for name, value in given.items() if value is not None}
    return {**base, **checked}


def _checked(name: str, value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in INTEGERS:
        if not is_number or abs(value) >= 2**63:
            raise InvalidRequest(f'option "{name}" must be of type integer')
        return int(value)
    if name in NUMBERS and not is_number:
        raise InvalidRequest(f'option "{name}" must be of type float32')
    if name in BOOLEANS and not isinstance(value, bool):
        raise InvalidRequest(f'option "{name}" must be of type boolean')
    if name in LISTS:
        return _texts(name, value)
    return value


def _texts(name: str, value: Any) -> list[str]:
    """A single one may come alone: that is how a Modelfile has it."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise InvalidRequest(f'option "{name}" must be of type array')
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(f'option "{name}" must be of an array of strings')
    return list(texts)
