"""Prompts from conversations, as Ollama makes them of a model's template."""

from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.contracts.inference import ChatMessage, Think
from libs.common.go_template import ollama_types
from libs.common.go_template.interpreter import Spent
from libs.common.go_template.template import Template


def render_chat(
    template: Template,
    *,
    messages: Sequence[ChatMessage],
    tools: Sequence[Mapping[str, Any]] = (),
    think: Think = None,
) -> str:
    """The prompt of a conversation; the model's own system prompt is its first message. Raises ``TemplateError``.

    A template that knows no messages is rendered once for each round of system, prompt and response, the last of them
    without what follows the response. It gets no tools.
    """
    collated = _collated(messages)
    if "messages" not in template.variables:
        return _rounds(template, collated, _thinking(think))
    system = "\n\n".join([message.content for message in messages if message.role == "system"])
    return template.render(
        {
            "System": system,
            "Messages": [ollama_types.message(message) for message in collated],
            "Tools": ollama_types.tools(tools),
            "Response": "",
            **_thinking(think),
        }
    )


def render_insert(template: Template, *, prompt: str, suffix: str, think: Think = None) -> str:
    """The prompt for text between ``prompt`` and ``suffix``. Raises ``TemplateError``."""
    return template.render({"Prompt": prompt, "Suffix": suffix, "Response": "", **_thinking(think)})


def _thinking(think: Think) -> dict[str, Any]:
    level = think if isinstance(think, str) else "medium" if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def _collated(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Neighbours of one role become one message, but results of tools, which belong to different calls.

    Ollama drops the images and the tool calls of all but the first of them; models should see them.
    """
    collated: list[ChatMessage] = []
    for message in messages:
        if not collated or collated[-1].role != message.role or message.role == "tool":
            collated.append(message)
            continue
        before = collated.pop()
        merged = {
            "content": f"{before.content}\n\n{message.content}",
            "images": before.images + message.images,
            "tool_calls": before.tool_calls + message.tool_calls,
        }
        collated.append(before.model_copy(update=merged))
    return collated


def _rounds(template: Template, messages: Sequence[ChatMessage], thinking: Mapping[str, Any]) -> str:
    """Rounds end where a system or user message follows what would have to stand behind it."""
    rounds: list[dict[str, str]] = [{}]
    for message in messages:
        ends_round = {"system": ("Prompt", "Response"), "user": ("Response",)}.get(message.role, ())
        if any(rounds[-1].get(name) for name in ends_round):
            rounds.append({})
        if name := {"system": "System", "user": "Prompt", "assistant": "Response"}.get(message.role):
            rounds[-1][name] = message.content
    *finished, last = [{"System": "", "Prompt": "", "Response": "", **given, **thinking} for given in rounds]
    spent = Spent()
    texts = [template.render(values, spent) for values in finished]
    return "".join([*texts, template.up_to_response.render(last, spent)])
