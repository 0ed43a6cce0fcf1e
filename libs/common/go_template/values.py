"""What templates compute with, and how Go shows it.

Values are None, bool, int, float, str, lists or tuples, dicts with str keys, and the three types below, which stand for
Ollama's own: they print as JSON. No attribute of a Python object is ever read.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MAX_DEPTH = 100
"""Of lists and maps within each other, when they are printed."""
MAX_TEXT = 8 * 1024 * 1024
"""Characters of any text, on the way and in the end."""


class Unusable(Exception):
    """A value cannot be used in this way; the interpreter adds where."""


@dataclass(frozen=True, slots=True)
class Struct:
    """Fields by their Go names, and its JSON. Unlike with a map it is an error to ask it for a field it has not."""

    type: str
    fields: Mapping[str, Any]
    wire: Mapping[str, Any]


class JsonMap(dict[str, Any]):
    """A map that prints as JSON, in the order it was made."""


class JsonList(list[Any]):
    """A list that prints as JSON."""


def is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def joined(parts: Iterable[str]) -> str:
    """Raises ``Unusable`` as soon as it gets longer than ``MAX_TEXT``, before the rest is made."""
    taken: list[str] = []
    length = 0
    for part in parts:
        taken.append(part)
        length += len(part)
        if length > MAX_TEXT:
            raise Unusable(f"a text longer than {MAX_TEXT} characters")
    return "".join(taken)


def truth(value: object) -> bool:
    return isinstance(value, Struct) or bool(value)


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def field(value: object, name: str) -> Any:
    """A missing key of a map is nil. Raises ``Unusable``."""
    match value:
        case Struct(fields=fields) if name in fields:
            return fields[name]
        case dict():
            return value.get(name)
        case None:
            raise Unusable(f"nil pointer evaluating interface {{}}.{name}")
    raise Unusable(f"can't evaluate field {name} in type {type_name(value)}")


def items(value: object) -> Iterator[tuple[Any, Any]]:
    """What ``range`` walks over: keys in their order, as Go does. Raises ``Unusable``."""
    if is_list(value) and isinstance(value, Sequence):
        return enumerate(value)
    match value:
        case dict():
            return iter(sorted(value.items()))
        case bool():
            pass
        case int():
            return ((i, i) for i in range(value))
        case None:
            return iter(())
    raise Unusable(f"range can't iterate over {shown(value)}")


_TYPE_NAMES = {
    bool: "bool",
    int: "int",
    float: "float64",
    str: "string",
    tuple: "[]interface {}",
    list: "[]interface {}",
    dict: "map[string]interface {}",
}


def type_name(value: object) -> str:
    if isinstance(value, Struct):
        return value.type
    return next((name for type_, name in _TYPE_NAMES.items() if isinstance(value, type_)), "<nil>")


def printed(value: object) -> str:
    """As an action writes it."""
    if isinstance(value, str):
        return value
    return "<no value>" if value is None else shown(value)


def shown(value: object, depth: int = 0) -> str:
    """Go's ``%v``. Raises ``Unusable`` if nested too deep."""
    if depth > MAX_DEPTH:
        raise Unusable(f"nested deeper than {MAX_DEPTH}")
    match value:
        case None:
            text = "<nil>"
        case bool():
            text = "true" if value else "false"
        case float():
            text = float_text(value, exponents=(-4, 6))
        case Struct() | JsonMap() | JsonList():
            text = marshal(value, depth)
        case dict():
            text = f"map[{' '.join([f'{key}:{shown(item, depth + 1)}' for key, item in sorted(value.items())])}]"
        case list() | tuple():
            text = f"[{' '.join([shown(item, depth + 1) for item in value])}]"
        case _:
            text = str(value)
    return text


def marshal(value: object, depth: int = 0) -> str:
    """As Go's ``json.Marshal``: no spaces, and nothing a browser would take for HTML. Raises ``Unusable``."""
    if depth > MAX_DEPTH:
        raise Unusable(f"nested deeper than {MAX_DEPTH}")
    match value:
        case Struct(wire=wire):
            return marshal(wire, depth)
        case dict():
            pairs = [f"{_quoted(str(key))}:{marshal(item, depth + 1)}" for key, item in value.items()]
            return f"{{{','.join(pairs)}}}"
        case list() | tuple():
            return f"[{','.join([marshal(item, depth + 1) for item in value])}]"
        case str():
            return _quoted(value)
        case float() if math.isfinite(value):
            return float_text(value, exponents=(-6, 21)).replace("e-0", "e-")
        case None | bool() | int():
            return json.dumps(value)
    raise Unusable(f"unsupported value: {shown(value)}")


_UNSAFE = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_UNSAFE)


def float_text(value: float, *, exponents: tuple[int, int]) -> str:
    """The shortest text that is this number; with an exponent if its power of ten is outside of this range."""
    if not math.isfinite(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    decimal = Decimal(repr(value))
    power = decimal.adjusted() if value else 0
    if exponents[0] <= power < exponents[1]:
        plain = format(decimal, "f")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    mantissa = format(decimal.scaleb(-power).normalize(), "f")
    return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02}"
