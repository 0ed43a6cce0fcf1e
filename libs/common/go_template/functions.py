"""The functions a template may call: Go's own, and those Ollama adds.

Each takes and returns template values and raises ``Unusable``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

from libs.common.go_template.printf import sprint, sprintf, sprintln
from libs.common.go_template.values import Struct, Unusable, is_list, marshal, number, truth, type_name


def _comparable(left: object, right: object) -> bool:
    """Integers compare with floats, unlike in Go: there, every number of a JSON document is a float."""
    return (number(left) and number(right)) or type(left) is type(right)


def _equal(value: object, *others: object) -> bool:
    if not others:
        raise Unusable("missing argument for comparison")
    for other in others:
        if is_list(value) or isinstance(value, dict | Struct):
            raise Unusable(f"non-comparable type {type_name(value)}")
        if value is not None and other is not None and not _comparable(value, other):
            raise Unusable("incompatible types for comparison")
    return value in others


def _less(left: Any, right: Any) -> bool:
    ordered = number(left) or isinstance(left, str)
    if not ordered or not _comparable(left, right):
        raise Unusable("incompatible types for comparison" if ordered else "invalid type for comparison")
    return bool(left < right)


def _less_or_equal(left: Any, right: Any) -> bool:
    return _less(left, right) or _equal(left, right)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(_bytes(value))
    if is_list(value) or isinstance(value, dict):
        return len(value)
    raise Unusable(f"len of type {type_name(value)}")


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        match value:
            case dict() if isinstance(key, str):
                value = value.get(key)
            case str():
                value = _bytes(value)[_offset(key, _length(value) - 1)]
            case list() | tuple():
                value = value[_offset(key, len(value) - 1)]
            case _:
                raise Unusable(f"can't index item of type {type_name(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not (is_list(value) or isinstance(value, str)):
        raise Unusable(f"can't slice item of type {type_name(value)}")
    if len(bounds) > 2:
        raise Unusable(f"too many slice indexes: {len(bounds)}")
    sliced = _bytes(value) if isinstance(value, str) else value
    start, end = (*[_offset(bound, len(sliced)) for bound in bounds], *(0, len(sliced))[len(bounds) :])
    if start > end:
        raise Unusable(f"invalid slice index: {start} > {end}")
    part = sliced[start:end]
    return part.decode(errors="replace") if isinstance(part, bytes) else part


def _offset(key: Any, last: int) -> int:
    if not isinstance(key, int) or isinstance(key, bool):
        raise Unusable(f"cannot index slice/array with type {type_name(key)}")
    if not 0 <= key <= last:
        raise Unusable(f"index out of range: {key}")
    return key


def _bytes(text: str) -> bytes:
    """Go's strings are bytes: lengths and offsets count them."""
    return text.encode(errors="replace")


_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"})
_JS = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    | {c: f"\\u{ord(c):04X}" for c in "<>&=\0\u2028\u2029"}
)


def _date(days_ago: int) -> str:
    return (datetime.now().astimezone() - timedelta(days=days_ago)).date().isoformat()


_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def _typescript(value: Any) -> str:
    """The type of a tool's property, as gpt-oss is told of it."""
    if not isinstance(value, Struct):
        return "any"
    if choices := value.fields.get("AnyOf"):
        return " | ".join(map(_typescript, choices))
    types = value.fields.get("Type") or ()
    return (
        " | ".join([_TYPESCRIPT.get(name, "any") for name in ([types] if isinstance(types, str) else types)]) or "any"
    )


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function, and how many arguments it takes."""

    call: Callable[..., Any]
    least: int
    most: int = 100


FUNCTIONS: Mapping[str, Builtin] = {
    "not": Builtin(lambda value: not truth(value), 1, 1),
    "eq": Builtin(_equal, 2),
    "ne": Builtin(lambda left, right: not _equal(left, right), 2, 2),
    "lt": Builtin(_less, 2, 2),
    "le": Builtin(_less_or_equal, 2, 2),
    "gt": Builtin(lambda left, right: _less(right, left), 2, 2),
    "ge": Builtin(lambda left, right: _less_or_equal(right, left), 2, 2),
    "len": Builtin(_length, 1, 1),
    "index": Builtin(_index, 1),
    "slice": Builtin(_slice, 1, 3),
    "print": Builtin(sprint, 0),
    "printf": Builtin(sprintf, 1),
    "println": Builtin(sprintln, 0),
    "html": Builtin(lambda *values: sprint(*values).translate(_HTML), 0),
    "js": Builtin(lambda *values: sprint(*values).translate(_JS), 0),
    "urlquery": Builtin(lambda *values: quote_plus(sprint(*values), safe="-_.~", errors="replace"), 0),
    "json": Builtin(marshal, 1, 1),
    "currentDate": Builtin(lambda: _date(0), 0, 0),
    "yesterdayDate": Builtin(lambda: _date(1), 0, 0),
    "toTypeScriptType": Builtin(_typescript, 1, 1),
}

STOPS_AT: Mapping[str, bool] = {"and": False, "or": True}
"""These two evaluate their arguments only up to the first that is so, and return it; else the last."""

NAMES = {*FUNCTIONS, *STOPS_AT}
