"""The template of a prompt: a Modelfile's, in Go's language, or the GGUF's own, in Jinja, which the server renders."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from libs.common import go_template
from libs.common.contracts.inference import ChatMessage, Think
from services.worker.engines.base import Job
from services.worker.engines.conversation import think_level, thinks
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.openai_wire import tool_rules, wire_messages
from services.worker.engines.thinking import Tags

# What nearly every model writes around its thinking.
USUAL_TAGS: Final = Tags("<think>", "</think>")


class Template(Protocol):
    tags: Tags
    tool_tag: str
    """What a model writes in front of its tool calls."""

    async def render(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt, images as ``[img-0]`` in front of their message. Raises ``InvalidRequest``."""

    async def render_insertion(self) -> str | None:
        """The prompt of a generate call with a suffix; None if the template has no place for one."""


async def template_of(process: LlamaProcess, job: Job) -> Template:
    """The request's, else the model's. Raises ``InvalidRequest`` if it cannot be parsed."""
    text = job.task.template or job.model.template
    return await asyncio.to_thread(GoTemplate, text, job) if text else JinjaTemplate(process, job)


def template_arguments(job: Job) -> dict[str, Any]:
    """What a Jinja template is told beside the messages, as the server wants it."""
    arguments: dict[str, Any] = {}
    if job.task.tools:
        arguments |= {"tools": job.task.tools} | tool_rules(job.task)
    if "thinking" in job.model.capabilities:
        arguments["chat_template_kwargs"] = {"enable_thinking": thinks(job.task, job.model)}
        if level := think_level(job.task):
            arguments["chat_template_kwargs"]["reasoning_effort"] = level
    return arguments


@dataclass
class JinjaTemplate:
    process: LlamaProcess
    job: Job
    tags: Tags = USUAL_TAGS
    tool_tag: str = ""

    async def render(self, messages: Sequence[ChatMessage]) -> str:
        body = {"messages": wire_messages(_with_marks(messages), reasoning=True)} | template_arguments(self.job)
        prompt: str = (await self.process.ask("/apply-template", body))["prompt"]
        return prompt

    async def render_insertion(self) -> str | None:
        return None


class GoTemplate:
    """Made in a thread: a long one takes long to parse."""

    def __init__(self, text: str, job: Job) -> None:
        self._template = go_template.parse(text)
        self._job = job
        tags = go_template.thinking_tags(self._template)
        self.tags = Tags(*tags) if tags else USUAL_TAGS
        self.tool_tag = go_template.tool_call_tag(self._template)

    async def render(self, messages: Sequence[ChatMessage]) -> str:
        marked, tools = _with_marks(messages), self._job.task.tools
        return await asyncio.to_thread(
            go_template.render_chat, self._template, messages=marked, tools=tools, think=self._think
        )

    async def render_insertion(self) -> str | None:
        task = self._job.task
        if "suffix" not in self._template.variables:
            return None
        return await asyncio.to_thread(
            go_template.render_insert, self._template, prompt=task.prompt, suffix=task.suffix, think=self._think
        )

    @property
    def _think(self) -> Think:
        can = "thinking" in self._job.model.capabilities
        return True if self._job.task.think is None and can else self._job.task.think


def _with_marks(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """Images as ``[img-0]``, counted over the conversation."""
    if not any(message.images for message in messages):
        return messages
    marked: list[ChatMessage] = []
    count = 0
    for message in messages:
        marks = "".join(f"[img-{count + index}]" for index in range(len(message.images)))
        count += len(message.images)
        marked.append(message.model_copy(update={"content": marks + message.content, "images": ()}))
    return marked
