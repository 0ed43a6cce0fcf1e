"""A parsed template."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from libs.common.go_template.functions import NAMES
from libs.common.go_template.interpreter import Spent, execute
from libs.common.go_template.nodes import Action, Body, Branch, Command, Field, Include, Node, Pipe, Span, names
from libs.common.go_template.parser import parse_tree

_NOWHERE = Span(0, 0)
_RESPONSE = Action(_NOWHERE, Pipe(_NOWHERE, (Command(_NOWHERE, (Field(_NOWHERE, ("Response",)),)),)))


@dataclass(frozen=True)
class Template:
    """Immutable; one for all threads."""

    source: str
    body: Body
    defined: Mapping[str, Body]

    @cached_property
    def variables(self) -> frozenset[str]:
        """Every field the template mentions, in lower case: what it can make use of."""
        return frozenset(name.lower() for body in (self.body, *self.defined.values()) for name in _mentioned(body))

    @cached_property
    def up_to_response(self) -> "Template":
        """The template without what follows ``{{ .Response }}``: for the answer that has yet to be written."""
        body, _ = _cut(self.body)
        return replace(self, body=body)

    def render(self, values: Mapping[str, Any], spent: Spent | None = None) -> str:
        """Raises ``TemplateError``; takes seconds at most, and a thread if the values are long."""
        return execute(self.source, self.body, self.defined, dict(values), spent or Spent())


@lru_cache(maxsize=64)
def parse(source: str) -> Template:
    """Raises ``TemplateError``. As in Ollama a template that asks for no messages ends with the response."""
    body, defined = parse_tree(source, NAMES)
    template = Template(source, body, defined)
    if template.variables & {"messages", "response"}:
        return template
    return replace(template, body=(*body, _RESPONSE))


def _mentioned(body: Body) -> Iterator[str]:
    for node in body:
        if isinstance(node, Action | Branch | Include) and node.pipe is not None:
            yield from names(node.pipe)
        if isinstance(node, Branch):
            yield from _mentioned(node.body)
            yield from _mentioned(node.otherwise)


def _cut(body: Body) -> tuple[Body, bool]:
    """The body up to the first action with the response, and whether there is one."""
    kept: list[Node] = []
    for node in body:
        if isinstance(node, Action) and "Response" in names(node.pipe):
            return (*kept, node), True
        if not isinstance(node, Branch):
            kept.append(node)
            continue
        inner, found = _cut(node.body)
        otherwise, found_there = ((), False) if found else _cut(node.otherwise)
        kept.append(replace(node, body=inner, otherwise=otherwise))
        if found or found_there:
            return tuple(kept), True
    return tuple(kept), False
