"""Go's ``Sprint``, ``Sprintln`` and ``Sprintf`` over template values."""

import json
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from libs.common.go_template.values import Unusable, joined, shown, type_name

MAX_WIDTH = 1000
"""Of a number or a text that ``printf`` pads."""

_SURROGATES = range(0xD800, 0xE000)

_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>\d{1,9})?(?:\.(?P<precision>\d{0,9}))?(?P<verb>.|$)", re.S)


def sprint(*values: object) -> str:
    """A space between two values neither of which is a text."""
    spaced = [not isinstance(value, str) and not isinstance(before, str) for before, value in pairwise(values)]
    return joined(" " * space + shown(value) for space, value in zip([False, *spaced], values, strict=False))


def sprintln(*values: object) -> str:
    return joined(f"{' ' if i else ''}{shown(value)}" for i, value in enumerate(values)) + "\n"


def sprintf(form: Any, *values: object) -> str:
    if not isinstance(form, str):
        raise Unusable(f"wrong type for value; expected string; got {type_name(form)}")
    return joined(_pieces(form, list(values)))


def _pieces(form: str, left: list[Any]) -> Iterator[str]:
    end = 0
    for match in _VERB.finditer(form):
        yield form[end : match.start()]
        yield _formatted(match, left)
        end = match.end()
    yield form[end:]
    for i, value in enumerate(left):
        yield f"{', ' if i else '%!(EXTRA '}{type_name(value)}={shown(value)}"
    if left:
        yield ")"


def _formatted(match: re.Match[str], left: list[Any]) -> str:
    """One verb's text; takes its value from the front of ``left``."""
    flags, verb = match["flags"], match["verb"]
    width, precision = int(match["width"] or 0), match["precision"]
    if max(width, int(precision or 0)) > MAX_WIDTH:
        raise Unusable(f"printf: wider than {MAX_WIDTH}")
    if verb == "%":
        return "%"
    if not verb:
        return "%!(NOVERB)"
    if not left:
        return f"%!{verb}(MISSING)"
    text = _converted(verb, left.pop(0), flags, None if precision is None else int(precision or 0))
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and verb in "dxXfFeEgG":
        return text.zfill(width)
    return text.rjust(width)


def _converted(verb: str, value: Any, flags: str, precision: int | None) -> str:
    plus = "+" if "+" in flags else " " if " " in flags else ""
    kind = type_name(value)
    text: str
    match verb, kind:
        case "s" | "v", "string":
            text = value[:precision]
        case ("v", _) | ("t", "bool"):
            text = shown(value)
        case "s", kind if kind not in ("bool", "int", "float64"):
            text = shown(value)
        case "q", "string":
            text = json.dumps(value, ensure_ascii=False)
        case "x" | "X", "string":
            text = value.encode(errors="replace").hex()
            text = text.upper() if verb == "X" else text
        case "d" | "x" | "X" | "o" | "b", "int":
            text = format(value, f"{plus}{verb}")
        case "c", "int":
            text = chr(value if 0 <= value <= sys.maxunicode and value not in _SURROGATES else 0xFFFD)
        case "f" | "F" | "e" | "E", "float64":
            text = format(value, f"{plus}.{6 if precision is None else precision}{verb}")
        case "g" | "G", "float64":
            text = shown(value) if precision is None else format(value, f"{plus}.{precision or 1}{verb}")
        case "T", _:
            text = kind
        case _:
            text = f"%!{verb}({kind}={shown(value)})"
    return text
