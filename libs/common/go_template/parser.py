"""Template text to a syntax tree, by the grammar of Go's text/template."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from libs.common.go_template import literals
from libs.common.go_template.lexer import Token
from libs.common.go_template.nodes import (
    Action,
    Body,
    Branch,
    Break,
    Continue,
    If,
    Include,
    Node,
    Pipe,
    Range,
    TemplateError,
    Text,
    With,
)
from libs.common.go_template.pipes import PipeParser

MAX_SOURCE = 256 * 1024
"""Characters; the longest templates in use have some ten thousand."""

_BRANCHES: Mapping[str, type[Branch]] = {"if": If, "with": With, "range": Range}
_KEYWORDS = {*_BRANCHES, "block", "break", "continue", "define", "else", "end", "template"}


def parse_tree(source: str, functions: Collection[str]) -> tuple[Body, Mapping[str, Body]]:
    """The template's body, and the templates it defines by name. Raises ``TemplateError`` and nothing else."""
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"template: longer than {MAX_SOURCE} characters")
    parser = _TreeParser(source, functions)
    body, _ = parser.body()
    return body, parser.defined


class _TreeParser(PipeParser):
    def __init__(self, source: str, functions: Collection[str]) -> None:
        super().__init__(source, functions)
        self._loops = 0
        self.defined: dict[str, Body] = {}

    def body(self, *until: str) -> tuple[Body, str]:
        """Nodes up to one of these words, which is taken and returned; without any, up to the end of the text."""
        nodes: list[Node] = []
        while (token := self._take()).kind != "end":
            if token.kind == "text":
                nodes.append(Text(token.span, token.text))
                continue
            word = self._peek()
            if word.text in until:
                return tuple(nodes), self._take().text
            if (node := self._node(token, word, nested=bool(until))) is not None:
                nodes.append(node)
        if until:
            raise self._error(token, "unexpected EOF")
        return tuple(nodes), ""

    def _node(self, opening: Token, word: Token, *, nested: bool) -> Node | None:
        if word.kind != "word" or word.text not in _KEYWORDS:
            pipe = self._pipe("command")
            return Action(self._since(opening), pipe)
        self._take()
        match word.text:
            case "if" | "with" | "range":
                return self._branch(opening, word.text)
            case "template":
                return self._include(opening)
            case "block":
                return self._block(opening)
            case "break" | "continue":
                return self._jump(opening, word.text)
            case "define" if not nested:
                self._define(opening)
                return None
        raise self._error(word, f"unexpected {{{{{word.text}}}}}")

    def _branch(self, opening: Token, word: str) -> Branch:
        with self._deeper(opening), self._scope():
            pipe = self._pipe(word)
            self._loops += word == "range"
            body, ending = self.body("else", "end")
            self._loops -= word == "range"
            otherwise = self._otherwise(opening, word) if ending == "else" else ()
            if ending == "end":
                self._close(word)
        return _BRANCHES[word](self._since(opening), pipe, body, otherwise)

    def _otherwise(self, opening: Token, word: str) -> Body:
        """What follows ``{{ else``; an ``if`` or ``with`` there is a branch that shares our ``{{ end }}``."""
        if word != "range" and self._peek().text == word:
            self._take()
            return (self._branch(opening, word),)
        self._close("else")
        body, _ = self.body("end")
        self._close("end")
        return body

    def _jump(self, opening: Token, word: str) -> Node:
        self._close(word)
        if not self._loops:
            raise self._error(opening, f"{{{{{word}}}}} outside {{{{range}}}}")
        return (Break if word == "break" else Continue)(self._since(opening))

    def _include(self, opening: Token) -> Include:
        name = self._template_name("template clause")
        pipe: Pipe | None = None
        if self._peek().kind == "close":
            self._take()
        else:
            pipe = self._pipe("template clause")
        return Include(self._since(opening), name, pipe)

    def _block(self, opening: Token) -> Include:
        name = self._template_name("block clause")
        pipe = self._pipe("block clause")
        self._definition(opening, name)
        return Include(self._since(opening), name, pipe)

    def _define(self, opening: Token) -> None:
        name = self._template_name("define clause")
        self._close("define clause")
        self._definition(opening, name)

    def _definition(self, opening: Token, name: str) -> None:
        """A template of its own: it sees no variable but ``$``, and no loop."""
        if name in self.defined:
            raise self._error(opening, f'multiple definition of template "{name}"')
        outside = self._variables, self._loops
        self._variables, self._loops = ["$"], 0
        with self._deeper(opening):
            self.defined[name], _ = self.body("end")
        self._close("end")
        self._variables, self._loops = outside

    def _template_name(self, context: str) -> str:
        if (token := self._peek()).kind not in ("string", "raw"):
            raise self._unexpected(token, context)
        return str(literals.value(self._source, self._take()))

    def _close(self, context: str) -> None:
        if (token := self._peek()).kind != "close":
            raise self._unexpected(token, context)
        self._take()

    @contextmanager
    def _scope(self) -> Iterator[None]:
        """Variables declared inside are unknown behind it."""
        known = len(self._variables)
        yield
        del self._variables[known:]
