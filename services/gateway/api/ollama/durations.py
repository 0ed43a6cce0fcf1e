"""``keep_alive``: seconds, or a duration as Go writes it."""

import json
import re
from typing import Any, Final

from libs.common.errors import InvalidRequest

FOREVER: Final = -1.0
LONGEST_SECONDS = (2**63 - 1) / 1e9
"""What Go's nanoseconds can hold; longer is for ever."""

_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]*\.?[0-9]*)([^0-9.]*)")
_GO_TYPES = {bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}


def keep_alive_seconds(value: Any) -> float | None:
    """None: leave it as it is; negative: for ever. Raises ``InvalidRequest`` with Go's words."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidRequest(f"Unsupported type: '{_GO_TYPES[type(value)]}'")
    seconds = parse_duration(value) if isinstance(value, str) else float(value)
    return FOREVER if seconds < 0 or seconds > LONGEST_SECONDS else seconds


def parse_duration(text: str) -> float:
    """Seconds of ``1h30m``, ``300ms``, ``-1m``, ``0``. Raises ``InvalidRequest``."""
    quoted = json.dumps(text, ensure_ascii=False)
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    if not rest:
        raise InvalidRequest(f"time: invalid duration {quoted}")
    seconds = 0.0
    while rest:
        part = _PART.match(rest)
        assert part is not None
        number, unit = part.groups()
        if number in ("", "."):
            raise InvalidRequest(f"time: invalid duration {quoted}")
        if not unit:
            raise InvalidRequest(f"time: missing unit in duration {quoted}")
        if unit not in _UNIT_SECONDS:
            raise InvalidRequest(f"time: unknown unit {json.dumps(unit, ensure_ascii=False)} in duration {quoted}")
        seconds += float(number) * _UNIT_SECONDS[unit]
        rest = rest[part.end() :]
    if seconds > LONGEST_SECONDS:
        raise InvalidRequest(f"time: invalid duration {quoted}")
    return sign * seconds
