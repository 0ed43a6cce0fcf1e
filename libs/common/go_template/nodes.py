"""The syntax tree of a template: immutable, and every node knows where it stands in the source, for errors."""

from collections.abc import Iterator
from dataclasses import dataclass

from libs.common.errors import InvalidRequest


class TemplateError(InvalidRequest):
    """template: invalid template"""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the source: offsets of its first character and of the one behind its last."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Expression:
    span: Span


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Dot(Expression):
    """``.``, the value in question."""


@dataclass(frozen=True, slots=True)
class Field(Expression):
    """``.Function.Name``"""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable(Expression):
    """``$call.Function.Name``; the name has its ``$``, which alone is the data of the whole template."""

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain(Expression):
    """``(index .Messages 0).Role``"""

    target: "Expression"
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function(Expression):
    name: str


@dataclass(frozen=True, slots=True)
class Command(Expression):
    """Words between pipe symbols: a function with its arguments, or one value."""

    words: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Pipe(Expression):
    """``$a, $b := command | command``; also what stands in parentheses."""

    commands: tuple[Command, ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    span: Span


Body = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Text(Node):
    text: str


@dataclass(frozen=True, slots=True)
class Action(Node):
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch(Node):
    """A pipe decides between two bodies; ``else if`` is a branch alone in the second."""

    pipe: Pipe
    body: Body
    otherwise: Body


@dataclass(frozen=True, slots=True)
class If(Branch):
    pass


@dataclass(frozen=True, slots=True)
class With(Branch):
    pass


@dataclass(frozen=True, slots=True)
class Range(Branch):
    pass


@dataclass(frozen=True, slots=True)
class Break(Node):
    pass


@dataclass(frozen=True, slots=True)
class Continue(Node):
    pass


@dataclass(frozen=True, slots=True)
class Include(Node):
    """``{{ template "name" pipe }}``"""

    name: str
    pipe: Pipe | None


def expressions(expression: Expression) -> Iterator[Expression]:
    """The expression and everything in it, in the order of the source."""
    yield expression
    children: tuple[Expression, ...] = ()
    match expression:
        case Pipe(commands=children) | Command(words=children):
            pass
        case Chain(target=target):
            children = (target,)
    for child in children:
        yield from expressions(child)


def names(expression: Expression) -> Iterator[str]:
    """Every field name that an expression mentions."""
    for part in expressions(expression):
        if isinstance(part, Field | Variable | Chain):
            yield from part.names


def position(source: str, offset: int) -> tuple[int, int]:
    """Line and column as Go counts them: lines from 1, columns from 0."""
    return source.count("\n", 0, offset) + 1, offset - (source.rfind("\n", 0, offset) + 1)
