"""``keep_alive``: seconds, or a duration as Go writes it."""

from typing import Any, Final

from libs.common.errors import InvalidRequest
from libs.common.go_duration import LONGEST_SECONDS, parse_duration

FOREVER: Final = -1.0

_GO_TYPES: Final = {bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}


def keep_alive_seconds(value: Any) -> float | None:
    """None: leave it as it is; negative: for ever. Raises ``InvalidRequest`` with Go's words."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidRequest(f"Unsupported type: '{_GO_TYPES[type(value)]}'")
    try:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    return FOREVER if seconds < 0 or seconds > LONGEST_SECONDS else seconds
