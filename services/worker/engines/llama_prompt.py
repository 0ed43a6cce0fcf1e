"""From a task to the token ids of its prompt, within the context length."""

from typing import Any

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.errors import ContextExceeded, InvalidRequest
from services.worker.engines.base import Job
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.openai_wire import conversation


async def prompt_ids(process: LlamaProcess, job: Job, model: ModelRef, context_length: int) -> list[int]:
    """Ids of the prompt. Raises ``ContextExceeded`` if it does not fit and may not, or cannot, be shortened."""
    limit = context_length - 1  # room for the first token of the answer
    if job.task.kind == "chat":
        return await _chat_ids(process, job.task, model, limit)
    ids = await _generate_ids(process, job.task, model)
    if len(ids) <= limit:
        return ids
    if not job.task.truncate:
        raise _too_long(len(ids), limit)
    return cut(ids, job.task.options.num_keep, limit)


def cut(ids: list[int], keep: int, limit: int) -> list[int]:
    """At most ``limit`` ids: the first ``keep``, which say what it is about, and the newest."""
    if len(ids) <= limit:
        return ids
    keep = min(max(keep, 0), limit // 2)
    return ids[:keep] + ids[len(ids) - (limit - keep) :]


async def tokenize(process: LlamaProcess, text: str, *, special: bool) -> list[int]:
    """``special``: add what the model wants at the start, and read ``<|...|>`` as control tokens."""
    body = {"content": text, "add_special": special, "parse_special": special}
    ids: list[int] = (await process.ask("/tokenize", body))["tokens"]
    return ids


async def _generate_ids(process: LlamaProcess, task: InferenceTask, model: ModelRef) -> list[int]:
    if task.raw:
        ids = await tokenize(process, task.prompt, special=True)
    else:
        ids = [*task.context, *await _render(process, conversation(task, model))]
    if not ids:
        raise InvalidRequest("the prompt is empty")
    return ids


async def _chat_ids(process: LlamaProcess, task: InferenceTask, model: ModelRef, limit: int) -> list[int]:
    messages = conversation(task, model)
    ids = await _render(process, messages)
    if len(ids) <= limit:
        return ids
    shorter = await _without_oldest(process, messages, limit) if task.truncate else None
    if shorter is None:
        raise _too_long(len(ids), limit)
    return shorter


async def _without_oldest(process: LlamaProcess, messages: list[dict[str, Any]], limit: int) -> list[int] | None:
    """Drop as few of the oldest messages as needed, never the system's nor the last. None if that is not enough."""
    droppable = [index for index, message in enumerate(messages[:-1]) if message["role"] != "system"]
    fitting: list[int] | None = None
    fewest, most = 1, len(droppable)
    while fewest <= most:
        middle = (fewest + most) // 2
        dropped = set(droppable[:middle])
        ids = await _render(process, [message for index, message in enumerate(messages) if index not in dropped])
        if len(ids) <= limit:
            fitting, most = ids, middle - 1
        else:
            fewest = middle + 1
    return fitting


async def _render(process: LlamaProcess, messages: list[dict[str, Any]]) -> list[int]:
    prompt: str = (await process.ask("/apply-template", {"messages": messages}))["prompt"]
    return await tokenize(process, prompt, special=True)


def _too_long(length: int, limit: int) -> ContextExceeded:
    return ContextExceeded(f"the prompt has {length} tokens: it exceeds the context length of {limit + 1}")
