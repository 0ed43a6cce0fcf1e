"""The prompt of an insertion by the vocabulary's own infill tokens, for models without a template for it."""

from typing import Final

from libs.common.errors import ContextExceeded, UnsupportedByModel
from services.worker.engines.base import Job
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.llama_tokens import tokenize, tokenize_inside

# Stand-ins for what comes before and after the gap: the server tells where it would put them.
_BEFORE: Final = "1111"
_AFTER: Final = "2222"


async def infill_prompt(process: LlamaProcess, job: Job, limit: int) -> tuple[list[int], str]:
    """Ids and text. What is farthest from the gap is dropped if they do not fit.

    Raises ``UnsupportedByModel`` if the vocabulary has no tokens for it, ``ContextExceeded``.
    """
    opening, middle, ending, suffix_first = await _surroundings(process, job)
    marks = [
        await tokenize(process, opening, special=True),
        await tokenize_inside(process, middle, special=True),
        await tokenize_inside(process, ending, special=True) if ending else [],
    ]
    before = await tokenize_inside(process, job.task.prompt, special=False)
    after = await tokenize_inside(process, job.task.suffix, special=False)
    room = limit - sum(map(len, marks))
    if len(before) + len(after) > room:
        if not job.task.truncate or room < 2:
            raise ContextExceeded(f"the prompt exceeds the context length of {limit + 1}")
        after = after[: max(room // 4, room - len(before))]
        before = before[len(before) - min(len(before), room - len(after)) :]
    first, second = (after, before) if suffix_first else (before, after)
    texts = (job.task.suffix, job.task.prompt) if suffix_first else (job.task.prompt, job.task.suffix)
    return [*marks[0], *first, *marks[1], *second, *marks[2]], f"{opening}{texts[0]}{middle}{texts[1]}{ending}"


async def _surroundings(process: LlamaProcess, job: Job) -> tuple[str, str, str, bool]:
    """The infill tokens in front of, between and after the two texts, and whether the suffix comes first."""
    try:
        answer = await process.ask("/infill", {"input_prefix": _BEFORE, "input_suffix": _AFTER, "n_predict": 0})
    except UnsupportedByModel as error:
        raise UnsupportedByModel(f'"{job.model.name}" does not support insert') from error
    text: str = answer["prompt"]
    before, after = text.index(_BEFORE), text.index(_AFTER)
    first, second = min(before, after), max(before, after)
    width = len(_BEFORE)
    return text[:first], text[first + width : second], text[second + width :], after < before
