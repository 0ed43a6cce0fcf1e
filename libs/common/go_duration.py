"""Durations as Go writes them: ``1h30m``, ``300ms``, ``-1m``, ``0``."""

import json
import re
from typing import Final

LONGEST_SECONDS: Final = (2**63 - 1) / 1e9
"""What Go's nanoseconds can hold."""

LONGEST_TEXT: Final = 200
"""In characters; no duration needs more, and reading and quoting an endless one would stop the event loop."""

_UNIT_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]*\.?[0-9]*)([^0-9.]*)")


def parse_duration(text: str) -> float:
    """In seconds. Raises ``ValueError`` with Go's words."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"time: invalid duration of more than {LONGEST_TEXT} characters")
    quoted = json.dumps(text, ensure_ascii=False)
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError(f"time: invalid duration {quoted}")
    seconds = 0.0
    while rest:
        part = _PART.match(rest)
        assert part is not None
        number, unit = part.groups()
        if number in ("", "."):
            raise ValueError(f"time: invalid duration {quoted}")
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit not in _UNIT_SECONDS:
            raise ValueError(f"time: unknown unit {json.dumps(unit, ensure_ascii=False)} in duration {quoted}")
        seconds += float(number) * _UNIT_SECONDS[unit]
        rest = rest[part.end() :]
    if seconds > LONGEST_SECONDS:
        raise ValueError(f"time: invalid duration {quoted}")
    return sign * seconds
