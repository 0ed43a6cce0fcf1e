"""``tools`` and ``tool_choice`` of a response: functions, alone or in namespaces, flatter than those of a chat."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from libs.common.errors import InvalidRequest
from services.gateway.api.json_body import Fields
from services.gateway.api.openai.tools import ToolUse, read_tool_use

SEARCHES: Final = ("web_search", "web_search_preview", "web_search_2025_08_26", "web_search_preview_2025_03_11")
"""Offered by Codex unless it is told not to. A model that is not told of it answers without."""


@dataclass(frozen=True)
class Function:
    name: str
    namespace: str = ""

    @property
    def called(self) -> str:
        """How the model knows it."""
        return f"{self.namespace}.{self.name}" if self.namespace else self.name


@dataclass(frozen=True)
class Tools:
    use: ToolUse
    in_namespaces: dict[str, Function]
    """By the name that the model calls."""

    shown: list[dict[str, Any]]
    """As the reply repeats them."""


def read_tools(body: Fields) -> Tools:
    """Raises ``InvalidRequest``."""
    functions = list(_functions(body.objects("tools", "ResponseTool")))
    as_in_a_chat = {
        "tools": [_nested(function, fields) for function, fields in functions],
        "tool_choice": _choice(body),
        "parallel_tool_calls": body.raw("parallel_tool_calls"),
    }
    return Tools(
        use=read_tool_use(Fields(as_in_a_chat, "ResponseRequest")),
        in_namespaces={function.called: function for function, _ in functions if function.namespace},
        shown=[{"strict": None, "parameters": None, "description": "", **tool} for tool in body.raw("tools") or []],
    )


def _functions(tools: list[Fields]) -> Iterator[tuple[Function, Fields]]:
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        match tool.text("type"):
            case "function":
                yield Function(_name(tool, where)), tool
            case "namespace":
                namespace = _name(tool, where)
                for member in tool.objects("tools", "ResponseTool"):
                    if member.text("type") != "function":
                        raise _not_here(f"{where}.tools", member.text("type"))
                    yield Function(_name(member, f"{where}.tools"), namespace), member
            case kind if kind in SEARCHES:
                continue
            case other:
                raise _not_here(where, other)


def _name(tool: Fields, where: str) -> str:
    if not (name := tool.text("name")):
        raise InvalidRequest(f"{where}: name is required", param=where)
    return name


def _not_here(where: str, kind: str) -> InvalidRequest:
    return InvalidRequest(
        f"{where}: tools of type {kind[:50]!r} are not supported here, only functions and namespaces of functions",
        param=where,
    )


def _nested(function: Function, fields: Fields) -> dict[str, Any]:
    described = {name: fields.raw(name) for name in ("description", "parameters", "strict")}
    return {"type": "function", "function": {"name": function.called, **described}}


def _choice(body: Fields) -> Any:
    """In the words of a chat."""
    given = body.raw("tool_choice")
    if not isinstance(given, dict):
        return given
    choice = body.object("tool_choice", "ToolChoice")
    if choice.text("type") != "allowed_tools":
        return _chosen(choice)
    allowed = [_chosen(tool) for tool in choice.objects("tools", "ToolChoice")]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.text("mode"), "tools": allowed}}


def _chosen(choice: Fields) -> dict[str, Any]:
    name = Function(choice.text("name"), choice.text("namespace")).called
    return {"type": choice.text("type"), "function": {"name": name}}
