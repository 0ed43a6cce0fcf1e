"""Template text to tokens, by the rules of Go's text/template."""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from libs.common.go_template.nodes import Span, TemplateError, position

SPACE = " \t\r\n"

_OPEN = re.compile(r"\{\{(?P<trim>-(?=[ \t\r\n]))?(?P<comment>[ \t\r\n]*/\*)?")
_COMMENT_END = re.compile(r"\*/(?P<trim>[ \t\r\n]+-)?\}\}")
_TOKEN = re.compile(
    r"""
      (?P<close>     (?P<trim>[ \t\r\n]+-)? \}\} )
    | (?P<space>     [ \t\r\n]+ )
    | (?P<string>    "(?:\\.|[^"\\\n])*" )
    | (?P<raw>       `[^`]*` )
    | (?P<character> '(?:\\.|[^'\\\n])+' )
    | (?P<number>    [+-]?(?:0[xX][\da-fA-F_]++|0[oO][0-7_]++|0[bB][01_]++
                       |(?:\d[\d_]*+(?:\.[\d_]*+)?+|\.\d[\d_]*+)(?:[eE][+-]?\d++)?+) (?!\w) )
    | (?P<field>     \.[^\W\d]\w* )
    | (?P<variable>  \$\w* )
    | (?P<word>      [^\W\d]\w* )
    | (?P<symbol>    :=|[=|(),.] )
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """``kind`` is text, open, end, or the name of a group above; ``text`` its source, of the kind text trimmed."""

    kind: str
    text: str
    span: Span


def tokens(source: str) -> Iterator[Token]:
    """Raises ``TemplateError`` for what is not a token, an action or a comment that does not end."""
    offset, trims_next = 0, False
    while opening := _OPEN.search(source, offset):
        yield from _text(source, offset, opening.start(), trims_next, bool(opening["trim"]))
        if opening["comment"]:
            closing = _comment_end(source, opening)
        else:
            yield Token("open", "{{", Span(opening.start(), opening.end()))
            closing = yield from _action(source, opening)
        offset, trims_next = closing.end(), bool(closing["trim"])
    yield from _text(source, offset, len(source), trims_next, False)
    yield Token("end", "", Span(len(source), len(source)))


def _text(source: str, start: int, end: int, trim_left: bool, trim_right: bool) -> Iterator[Token]:
    text = source[start:end]
    text = text.lstrip(SPACE) if trim_left else text
    text = text.rstrip(SPACE) if trim_right else text
    if text:
        yield Token("text", text, Span(start, end))


def _comment_end(source: str, opening: re.Match[str]) -> re.Match[str]:
    end = source.find("*/", opening.end())
    if end < 0:
        raise error(source, opening.start(), "unclosed comment")
    if not (closing := _COMMENT_END.match(source, end)):
        raise error(source, opening.start(), "comment ends before closing delimiter")
    return closing


def _action(source: str, opening: re.Match[str]) -> Generator[Token, None, re.Match[str]]:
    """Yields the tokens up to the closing delimiter, with it; returns its match."""
    offset = opening.end()
    while match := _TOKEN.match(source, offset):
        kind = match.lastgroup or ""
        if match["close"]:
            yield Token("close", "}}", Span(*match.span()))
            return match
        yield Token(kind, match[0], Span(*match.span()))
        offset = match.end()
    raise error(source, offset, _complaint(source, offset))


def _complaint(source: str, offset: int) -> str:
    if offset == len(source):
        return "unclosed action"
    match source[offset]:
        case '"':
            return "unterminated quoted string"
        case "`":
            return "unterminated raw quoted string"
        case "'":
            return "unterminated character constant"
        case character if character.isdigit() or character in "+-":
            return f"bad number syntax: {source[offset : offset + 10]!r}"
        case character:
            return f"unexpected bad character U+{ord(character):04X} in action"


def error(source: str, offset: int, message: str) -> TemplateError:
    """Worded as Go's, which puts the (empty) name of the template before the line."""
    line, _ = position(source, offset)
    return TemplateError(f"template: :{line}: {message}")
