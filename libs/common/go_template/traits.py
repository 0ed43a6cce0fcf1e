"""What a template tells about its model: what it can do, and how it marks its thinking and its calls of tools."""

from collections.abc import Iterator

from libs.common.go_template.nodes import Action, Body, Branch, Field, If, Range, Text, Variable, expressions, names
from libs.common.go_template.template import Template


def capabilities(template: Template) -> frozenset[str]:
    """Of Ollama's capabilities those that follow from the template: tools, insert, thinking."""
    found = {"tools": "tools" in template.variables, "insert": "suffix" in template.variables}
    return frozenset(name for name, has in found.items() if has) | ({"thinking"} if thinking_tags(template) else set())


def thinking_tags(template: Template) -> tuple[str, str] | None:
    """The literal texts around ``{{ .Thinking }}`` of a message, None if there are none: as ("<think>", "</think>")."""
    opening = closing = ""
    for body in _thinking_bodies(template.body, of_messages=False):
        opening = body[0].text.strip() if isinstance(body[0], Text) else opening
        closing = body[-1].text.strip() if isinstance(body[-1], Text) else closing
    return (opening, closing) if opening and closing else None


def _thinking_bodies(body: Body, *, of_messages: bool) -> Iterator[Body]:
    """The innermost bodies with an action that writes a message's thinking."""
    for node in body:
        if isinstance(node, Action) and of_messages and _reads_thinking(node):
            yield body
        if isinstance(node, Branch):
            inside = "Messages" in names(node.pipe) if isinstance(node, Range) else of_messages
            yield from _thinking_bodies(node.body, of_messages=inside)
            yield from _thinking_bodies(node.otherwise, of_messages=of_messages)


def _reads_thinking(node: Action) -> bool:
    return any(
        isinstance(part, Field | Variable) and part.names[:1] == ("Thinking",) for part in expressions(node.pipe)
    )


def tool_call_tag(template: Template) -> str:
    """The text with which a model begins its calls of tools: as "<tool_call>"; "{" if they are plain JSON."""
    branch = _tool_call_branch(template.body)
    text = _first_text(branch.body) if branch else None
    return (text or "").replace("\r\n", "\n").split("{")[0].strip() or "{"


def _tool_call_branch(body: Body) -> If | None:
    for node in body:
        if not isinstance(node, Branch):
            continue
        if isinstance(node, If) and "ToolCalls" in names(node.pipe):
            return node
        if found := _tool_call_branch(node.body) or _tool_call_branch(node.otherwise):
            return found
    return None


def _first_text(body: Body) -> str | None:
    """Only what stands before every action: later text does not begin a call."""
    match body:
        case (Text(text=text), *rest):
            return text if text.strip() else _first_text(tuple(rest))
        case (Branch(body=inner, otherwise=otherwise), *_):
            return _first_text(inner) or _first_text(otherwise)
    return None
