"""What stands between the braces: pipes, commands, operands."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from libs.common.go_template import literals
from libs.common.go_template.lexer import Token, error, tokens
from libs.common.go_template.nodes import (
    Chain,
    Command,
    Dot,
    Expression,
    Field,
    Function,
    Literal,
    Pipe,
    Span,
    TemplateError,
    Variable,
)

MAX_NESTING = 60
"""Blocks, parentheses and ``else if`` within each other: they are frames on the interpreter's stack."""

MAX_VARIABLES = 100
"""Known at one place: they are searched one by one."""

_CONSTANTS: Mapping[str, bool | None] = {"true": True, "false": False, "nil": None}
_LITERALS = {"string", "raw", "character", "number"}


class PipeParser:
    """Reads the tokens once, from left to right."""

    def __init__(self, source: str, functions: Collection[str]) -> None:
        self._source = source
        self._functions = functions
        self._tokens = list(tokens(source))
        self._next = 0
        self._nesting = 0
        self._variables = ["$"]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _peek(self) -> Token:
        """The next token that is not space, which stays."""
        self._next += self._tokens[self._next].kind == "space"
        return self._tokens[self._next]

    def _since(self, first: Token) -> Span:
        return Span(first.span.start, self._tokens[self._next - 1].span.end)

    def _error(self, token: Token, message: str) -> TemplateError:
        return error(self._source, token.span.start, message)

    def _unexpected(self, token: Token, context: str) -> TemplateError:
        shown = "EOF" if token.kind == "end" else f'"{token.text[:20]}"'
        return self._error(token, f"unexpected {shown} in {context}")

    @contextmanager
    def _deeper(self, token: Token) -> Iterator[None]:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._error(token, f"nested deeper than {MAX_NESTING}")
        yield
        self._nesting -= 1

    def _pipe(self, context: str, *, in_parentheses: bool = False) -> Pipe:
        """Declarations and commands up to the closing braces or parenthesis, which is taken."""
        first = self._peek()
        variables, declares = self._declarations(context)
        commands = [self._command(context, first=True)]
        while (token := self._take()).text == "|":
            commands.append(self._command(context, first=False))
        if token.text != (")" if in_parentheses else "}}"):
            raise self._unexpected(token, context)
        if declares:
            self._declare(first, variables)
        return Pipe(self._since(first), tuple(commands), variables, declares)

    def _declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        """The variables of ``$a := `` or ``$a = ``, in a range also ``$a, $b := ``, and whether they are new."""
        start, names = self._next, list[str]()
        while self._peek().kind == "variable":
            names.append(self._take().text)
            symbol = self._peek().text
            if symbol in (":=", "="):
                if symbol == "=":
                    self._known(names, self._take())
                else:
                    self._take()
                return tuple(names), symbol == ":="
            if symbol != ",":
                break
            if context != "range" or len(names) > 1:
                raise self._error(self._peek(), f"too many declarations in {context}")
            self._take()
        self._next = start
        return (), False

    def _declare(self, token: Token, variables: tuple[str, ...]) -> None:
        self._variables += variables
        if len(self._variables) > MAX_VARIABLES:
            raise self._error(token, f"more than {MAX_VARIABLES} variables")

    def _known(self, names: list[str], token: Token) -> None:
        for name in names:
            if name not in self._variables:
                raise self._error(token, f'undefined variable "{name}"')

    def _command(self, context: str, *, first: bool) -> Command:
        start = self._peek()
        words: list[Expression] = []
        while (token := self._peek()).text not in ("|", ")", "}}"):
            words.append(self._operand(token, context))
            if (after := self._tokens[self._next]).kind != "space" and after.text not in ("|", ")", "}}"):
                raise self._unexpected(after, "operand")
        if not words:
            raise self._error(token, f"missing value for {context}")
        if not first and not isinstance(words[0], Function | Field | Variable | Chain | Pipe):
            raise self._error(start, "non executable command in pipeline stage")
        return Command(self._since(start), tuple(words))

    def _operand(self, token: Token, context: str) -> Expression:
        """A term and the fields that follow it without a space."""
        term = self._term(self._take(), context)
        names = self._fields()
        if not names:
            return term
        match term:
            case Field():
                return Field(self._since(token), term.names + names)
            case Variable():
                return Variable(self._since(token), term.name, names)
            case Pipe() | Function():
                return Chain(self._since(token), term, names)
        raise self._error(token, f"unexpected . after term {token.text[:20]!r}")

    def _fields(self) -> tuple[str, ...]:
        names: list[str] = []
        while self._tokens[self._next].kind == "field":
            names.append(self._take().text[1:])
        return tuple(names)

    def _term(self, token: Token, context: str) -> Expression:
        span = token.span
        if token.kind in _LITERALS:
            return Literal(span, literals.value(self._source, token))
        if token.kind == "field":
            return Field(span, (token.text[1:],))
        if token.kind == "variable":
            self._known([token.text], token)
            return Variable(span, token.text, ())
        if token.kind == "word":
            return self._word(token)
        if token.text == ".":
            return Dot(span)
        if token.text == "(":
            with self._deeper(token):
                return self._pipe("parenthesized pipeline", in_parentheses=True)
        raise self._unexpected(token, context)

    def _word(self, token: Token) -> Expression:
        if token.text in _CONSTANTS:
            return Literal(token.span, _CONSTANTS[token.text])
        if token.text not in self._functions:
            raise self._error(token, f'function "{token.text}" not defined')
        return Function(token.span, token.text)
