"""Go's string, character and number literals."""

import math
import re

from libs.common.go_template.lexer import Token, error
from libs.common.go_template.nodes import TemplateError

_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv\\'"])|x([\da-fA-F]{2})|([0-7]{3})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|(.?))""", re.S
)
_NAMED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def value(source: str, token: Token) -> str | int | float:
    """What a token of kind string, raw, character or number stands for. Raises ``TemplateError``."""
    try:
        match token.kind:
            case "raw":
                return token.text[1:-1]
            case "string":
                return _unquote(token.text)
            case "character":
                return ord(_unquote(token.text))
            case _:
                return _number(token.text)
    except (ValueError, TypeError, OverflowError) as invalid:
        raise _syntax(source, token) from invalid


def _syntax(source: str, token: Token) -> TemplateError:
    kind = {"string": "quoted string", "character": "character constant"}.get(token.kind, "number")
    return error(source, token.span.start, f"malformed {kind}: {token.text[:20]}")


def _unquote(text: str) -> str:
    return _ESCAPE.sub(_unescape, text[1:-1])


def _unescape(match: re.Match[str]) -> str:
    named, *numbered, unknown = match.groups()
    if named:
        return _NAMED.get(named, named)
    for digits, base in zip(numbered, (16, 8, 16, 16), strict=True):
        if digits:
            return _character(int(digits, base))
    raise ValueError(unknown)


def _character(code: int) -> str:
    """Raises ``ValueError`` for halves of surrogate pairs too: they are no text."""
    return chr(code).encode().decode()


def _number(text: str) -> int | float:
    digits = text.lstrip("+-")
    octal = digits.startswith("0") and digits.isdigit()
    try:
        whole = int(text, 8 if octal else 0)
    except ValueError:
        if octal:
            raise
        return _finite(float(text))
    if abs(whole) >= 1 << 64:
        raise OverflowError(text)
    return whole


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise OverflowError(number)
    return number
