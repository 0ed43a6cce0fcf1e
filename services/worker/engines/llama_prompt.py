"""From a task to the token ids of its prompt, within the context length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from libs.common.contracts.inference import ChatMessage
from libs.common.errors import ContextExceeded, InvalidRequest
from services.worker.engines.base import Job
from services.worker.engines.conversation import conversation
from services.worker.engines.images import count_images
from services.worker.engines.llama_infill import infill_prompt
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.llama_template import Template
from services.worker.engines.llama_tokens import tokenize

# What an image is taken for when old messages are dropped. Only the projector knows, and it has the last word.
TOKENS_OF_AN_IMAGE: Final = 768


@dataclass(frozen=True)
class Prompt:
    """``text`` is what was rendered, ``messages`` what of the conversation is in it."""

    ids: list[int]
    text: str
    messages: Sequence[ChatMessage] = ()


async def build_prompt(process: LlamaProcess, job: Job, template: Template, limit: int) -> Prompt:
    """At most ``limit`` ids. Raises ``ContextExceeded`` if it does not fit and may not, or cannot, be shortened."""
    if job.task.kind == "chat":
        return await _chat_prompt(process, job, template, limit)
    prompt = await _generate_prompt(process, job, template, limit)
    if len(prompt.ids) <= limit:
        return prompt
    if not job.task.truncate or job.task.images:
        raise _too_long(prompt, limit)
    return Prompt(cut(prompt.ids, job.task.options.num_keep, limit), prompt.text, prompt.messages)


def cut(ids: list[int], keep: int, limit: int) -> list[int]:
    """At most ``limit`` ids: the first ``keep``, which say what it is about, and the newest."""
    if len(ids) <= limit:
        return ids
    keep = min(max(keep, 0), limit // 2)
    return ids[:keep] + ids[len(ids) - (limit - keep) :]


async def _generate_prompt(process: LlamaProcess, job: Job, template: Template, limit: int) -> Prompt:
    task = job.task
    messages: Sequence[ChatMessage] = ()
    if task.raw:
        text = task.prompt
    elif task.suffix:
        insertion = await template.render_insertion()
        if insertion is None:
            return Prompt(*await infill_prompt(process, job, limit))
        text = insertion
    else:
        messages = conversation(task, job.model)
        text = await template.render(messages)
    only_ids = task.context and not text  # else what the model wants at the start would end them
    ids = [*task.context, *(() if only_ids else await tokenize(process, text, special=True))]
    if not ids:
        raise InvalidRequest("the prompt is empty")
    return Prompt(ids, text, messages)


async def _chat_prompt(process: LlamaProcess, job: Job, template: Template, limit: int) -> Prompt:
    messages = conversation(job.task, job.model)
    prompt = await _render(process, template, messages)
    if length(prompt) <= limit:
        return prompt
    shorter = await _without_oldest(process, template, messages, limit) if job.task.truncate else None
    if shorter is None and len(prompt.ids) > limit:
        raise _too_long(prompt, limit)
    return shorter or prompt


async def _without_oldest(
    process: LlamaProcess, template: Template, messages: Sequence[ChatMessage], limit: int
) -> Prompt | None:
    """Drop as few of the oldest messages as needed, never the system's nor the last. None if that is not enough."""
    droppable = [index for index, message in enumerate(messages[:-1]) if message.role != "system"]
    fitting: Prompt | None = None
    fewest, most = 1, len(droppable)
    while fewest <= most:
        middle = (fewest + most) // 2
        dropped = set(droppable[:middle])
        kept = [message for index, message in enumerate(messages) if index not in dropped]
        prompt = await _render(process, template, kept)
        if length(prompt) <= limit:
            fitting, most = prompt, middle - 1
        else:
            fewest = middle + 1
    return fitting


async def _render(process: LlamaProcess, template: Template, messages: Sequence[ChatMessage]) -> Prompt:
    text = await template.render(messages)
    return Prompt(await tokenize(process, text, special=True), text, messages)


def length(prompt: Prompt) -> int:
    """In tokens, with its images."""
    return len(prompt.ids) + TOKENS_OF_AN_IMAGE * count_images(prompt.messages)


def _too_long(prompt: Prompt, limit: int) -> ContextExceeded:
    """In words that clients look for: Claude Code makes its conversation shorter by these numbers."""
    return ContextExceeded(
        f"prompt is too long: {len(prompt.ids)} tokens > {limit} maximum; it exceeds the context length"
    )
