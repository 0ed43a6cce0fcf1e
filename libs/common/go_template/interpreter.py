"""Walks a template's tree and writes its text, within bounds: a template comes from a caller or from the internet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.common.go_template.functions import FUNCTIONS, STOPS_AT
from libs.common.go_template.nodes import (
    Action,
    Body,
    Branch,
    Break,
    Chain,
    Command,
    Continue,
    Dot,
    Expression,
    Field,
    Function,
    If,
    Include,
    Literal,
    Node,
    Pipe,
    Range,
    TemplateError,
    Text,
    Variable,
    position,
)
from libs.common.go_template.values import MAX_TEXT, Unusable, field, is_list, items, printed, truth

MAX_STEPS = 3_000_000
"""Nodes and expressions evaluated; long texts and lists that functions make count as more. Some seconds of one core."""
MAX_DEPTH = 60
"""Bodies entered within each other, so that templates which include themselves end."""

_READ_A_STEP, _MADE_A_STEP = 256, 4
"""Characters or entries. What a function reads or makes costs steps too, else a loop over long texts would be cheap."""

Signal = type[Break | Continue] | None
"""How a body ended: at its end, or at a ``break`` or ``continue``, which its range obeys."""


@dataclass
class Spent:
    """Of the bounds; prompts that are rendered in rounds share one."""

    steps: int = 0
    characters: int = 0


def execute(source: str, body: Body, defined: Mapping[str, Body], data: object, spent: Spent) -> str:
    """The text the template writes. Raises ``TemplateError``, with the place, also where a bound is reached."""
    run = _Run(source, defined, data, spent)
    try:
        run.body(body, data)
    except Unusable as unusable:
        raise run.error(str(unusable)) from unusable
    return "".join(run.output)


class _Run:
    def __init__(self, source: str, defined: Mapping[str, Body], data: object, spent: Spent) -> None:
        self._source = source
        self._defined = defined
        self._spent = spent
        self._depth = 0
        self._at: Node | Expression | None = None
        self._variables: list[tuple[str, Any]] = [("$", data)]
        self.output: list[str] = []

    def error(self, message: str) -> TemplateError:
        """Worded as Go's; the place is the last expression that began."""
        if self._at is None:
            return TemplateError(f"template: : {message}")
        start, end = self._at.span.start, self._at.span.end
        line, column = position(self._source, start)
        shown = self._source[start:end].strip() if end - start <= 20 else f"{self._source[start : start + 20]}..."
        return TemplateError(f'template: :{line}:{column}: executing "" at <{shown}>: {message}')

    def _spend(self, at: Node | Expression, steps: int = 1) -> None:
        self._at = at
        self._spent.steps += steps
        if self._spent.steps > MAX_STEPS:
            raise Unusable(f"more than {MAX_STEPS} steps")

    def _write(self, text: str) -> None:
        self._spent.characters += len(text)
        if self._spent.characters > MAX_TEXT:
            raise Unusable(f"output longer than {MAX_TEXT} characters")
        self.output.append(text)

    # Nodes

    def body(self, body: Body, dot: Any) -> Signal:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unusable(f"nested deeper than {MAX_DEPTH}")
        signal: Signal = None
        for node in body:
            if (signal := self._node(node, dot)) is not None:
                break
        self._depth -= 1
        return signal

    def _node(self, node: Node, dot: Any) -> Signal:
        self._spend(node)
        match node:
            case Text(text=text):
                self._write(text)
            case Action(pipe=pipe):
                value = self._pipe(pipe, dot)
                if not pipe.variables:
                    self._write(printed(value))
            case Branch():
                known = len(self._variables)
                signal = self._range(node, dot) if isinstance(node, Range) else self._branch(node, dot)
                del self._variables[known:]
                return signal
            case Include():
                self._include(node, dot)
            case Break() | Continue():
                return type(node)
        return None

    def _branch(self, node: Branch, dot: Any) -> Signal:
        value = self._pipe(node.pipe, dot)
        inner = dot if isinstance(node, If) else value
        return self.body(node.body, inner) if truth(value) else self.body(node.otherwise, dot)

    def _range(self, node: Range, dot: Any) -> Signal:
        value = self._pipe(node.pipe, dot, binds=False)
        if isinstance(value, dict):
            self._spend(node, len(value) // _MADE_A_STEP)  # its keys are sorted, even if the first round is the last
        known = len(self._variables)
        empty = True
        for key, element in items(value):
            self._spend(node)  # a round costs even if its body is empty
            empty = False
            self._bind(node.pipe, (key, element)[-len(node.pipe.variables) :] if node.pipe.variables else ())
            if self.body(node.body, element) is Break:
                break
            del self._variables[known:]
        return self.body(node.otherwise, dot) if empty else None

    def _include(self, node: Include, dot: Any) -> None:
        value = None if node.pipe is None else self._pipe(node.pipe, dot)
        self._at = node
        if node.name not in self._defined:
            raise Unusable(f'template "{node.name}" not defined')
        outside, self._variables = self._variables, [("$", value)]
        self.body(self._defined[node.name], value)
        self._variables = outside

    # Expressions

    def _pipe(self, pipe: Pipe, dot: Any, *, binds: bool = True) -> Any:
        piped: tuple[Any, ...] = ()
        for command in pipe.commands:
            piped = (self._command(command, dot, piped),)
        if binds:
            self._bind(pipe, piped)
        return piped[0]

    def _bind(self, pipe: Pipe, values: tuple[Any, ...]) -> None:
        for name, value in zip(pipe.variables, values, strict=False):
            if pipe.declares:
                self._variables.append((name, value))
            else:
                self._variables[self._place(name)] = (name, value)

    def _place(self, name: str) -> int:
        """Of the innermost variable of that name; the parser has seen its declaration."""
        return next(i for i in reversed(range(len(self._variables))) if self._variables[i][0] == name)

    def _command(self, command: Command, dot: Any, piped: tuple[Any, ...]) -> Any:
        first, *arguments = command.words
        if isinstance(first, Function):
            return self._call(command, first.name, arguments, dot, piped)
        self._at = first
        if arguments or piped:
            raise Unusable("can't give argument to non-function")
        if isinstance(first, Literal) and first.value is None:
            raise Unusable("nil is not a command")
        return self._value(first, dot)

    def _call(self, at: Expression, name: str, words: list[Expression], dot: Any, piped: tuple[Any, ...]) -> Any:
        self._spend(at)
        if name in STOPS_AT:
            return self._first(name, words, dot, piped)
        function = FUNCTIONS[name]
        values = (*[self._value(word, dot) for word in words], *piped)
        self._at = at
        if not function.least <= len(values) <= function.most:
            raise Unusable(f"wrong number of args for {name}: got {len(values)}")
        self._spend(at, sum([len(value) for value in values if isinstance(value, str)]) // _READ_A_STEP)
        try:
            result = function.call(*values)
        except Unusable as unusable:
            raise Unusable(f"error calling {name}: {unusable}") from unusable
        if isinstance(result, str) or is_list(result):
            self._spend(at, len(result) // _MADE_A_STEP)
            if len(result) > MAX_TEXT:
                raise Unusable(f"a text longer than {MAX_TEXT} characters")
        return result

    def _first(self, name: str, words: list[Expression], dot: Any, piped: tuple[Any, ...]) -> Any:
        if not words and not piped:
            raise Unusable(f"wrong number of args for {name}: got 0")
        value: Any = None
        for word in words:
            value = self._value(word, dot)
            if truth(value) is STOPS_AT[name]:
                return value
        return piped[0] if piped else value

    def _value(self, expression: Expression, dot: Any) -> Any:
        self._spend(expression)
        names: tuple[str, ...] = ()
        match expression:
            case Literal(value=value):
                pass
            case Dot():
                value = dot
            case Field(names=names):
                value = dot
            case Variable(name=name, names=names):
                value = self._variables[self._place(name)][1]
            case Chain(target=target, names=names):
                value = self._value(target, dot)
            case Pipe():
                value = self._pipe(expression, dot)
            case Function(name=name):
                value = self._call(expression, name, [], dot, ())
        self._at = expression
        for name in names:
            value = field(value, name)
        return value
