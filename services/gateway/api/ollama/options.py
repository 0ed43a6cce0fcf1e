"""``options``: known names are checked, unknown ones ignored; defaults < the model's < the request's."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from libs.common.contracts.inference import ModelRef, SamplingOptions
from libs.common.errors import InvalidRequest

LARGEST_INT32 = 2**31 - 1
LARGEST_FLOAT32 = 3.4028234663852886e38
SMALLEST_CONTEXT = 4
SMALLEST_VISION_CONTEXT = 2048
MOST_STOPS = 1000


def _integer(name: str, value: Any) -> int:
    """Floats are cut, as Go does. Engines count in 32 bits, so what is beyond is as good as the largest."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 2**63:
        raise InvalidRequest(f'option "{name}" must be of type integer', param=name)
    return max(-LARGEST_INT32, min(int(value), LARGEST_INT32))


def _seed(name: str, value: Any) -> int:
    """Folded into 31 bits, which every engine takes as it is. Negative: any."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 2**63:
        raise InvalidRequest(f'option "{name}" must be of type integer', param=name)
    return int(value) % (LARGEST_INT32 + 1) if value >= 0 else random_seed()


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST_FLOAT32:
        raise InvalidRequest(f'option "{name}" must be of type float32', param=name)
    return float(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f'option "{name}" must be of type boolean', param=name)
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InvalidRequest(f'option "{name}" must be of type array', param=name)
    if not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f'option "{name}" must be of an array of strings', param=name)
    if len(value) > MOST_STOPS:
        raise InvalidRequest(f'option "{name}" must not have more than {MOST_STOPS} entries', param=name)
    return tuple(item for item in value if item)


_SAMPLING: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("num_ctx", "num_predict", "num_keep", "top_k", "repeat_last_n"), _integer),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), _number),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), _number),
    "seed": _seed,
    "stop": _texts,
}
_CHECKED_ONLY: dict[str, Callable[[str, Any], Any]] = {
    # How a worker loads a model is its own affair: these are checked like Ollama's, and change nothing.
    **dict.fromkeys(("num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"), _integer),
    "use_mmap": _boolean,
}
_KNOWN = {**_SAMPLING, **_CHECKED_ONLY}


def resolve_options(model: ModelRef, request: Mapping[str, Any]) -> SamplingOptions:
    """Raises ``InvalidRequest`` with Ollama's words, but as 400 where Ollama says 500: it is the caller's mistake."""
    given = {
        name: _KNOWN[name](name, value)
        for name, value in {
            **model.parameters,
            **{name: value for name, value in request.items() if value is not None},
        }.items()
        if name in _KNOWN
    }
    values = {name: value for name, value in given.items() if name in _SAMPLING}
    if "seed" not in values:
        values["seed"] = random_seed()
    if "num_ctx" in values:
        least = SMALLEST_VISION_CONTEXT if "vision" in model.capabilities else SMALLEST_CONTEXT
        values["num_ctx"] = max(least, values["num_ctx"]) if values["num_ctx"] > 0 else 0
    if "num_predict" in values:
        values["num_predict"] = max(-1, values["num_predict"])
    return SamplingOptions(**values)


def random_seed() -> int:
    return secrets.randbelow(LARGEST_INT32 + 1)
