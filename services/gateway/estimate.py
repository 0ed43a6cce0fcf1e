"""What a request says of itself before it runs: about how many tokens it costs, and how it begins."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import orjson

from libs.common.contracts.inference import InferenceTask, ModelRef

LIKELY_ANSWER_TOKENS: Final = 256
CHARACTERS_PER_TOKEN: Final = 4
BLOCK_CHARACTERS: Final = 512
MOST_BLOCKS: Final = 32


@dataclass(frozen=True)
class Estimate:
    """In tokens."""

    prompt: int
    answer: int
    is_stream: bool = True
    """Counts among those that its caller may have at once. Who has tokens counted holds a slot for a moment only."""

    @property
    def total(self) -> int:
        return self.prompt + self.answer


def estimate(task: InferenceTask, model: ModelRef) -> Estimate:
    """From the length of its text, and the answer it asks for or a likely one."""
    if task.kind == "load":
        return Estimate(0, 0)
    if task.kind in {"tokenize", "detokenize"} or task.debug_render_only:
        return Estimate(0, 0, is_stream=False)
    characters = len(task.prompt) + len(task.suffix) + len(task.system or "") + sum(map(len, task.inputs))
    characters += sum(len(message.content) + len(message.thinking) for message in task.messages)
    characters += len(orjson.dumps(task.tools)) if task.tools else 0
    prompt = math.ceil(characters / CHARACTERS_PER_TOKEN) + len(task.context)
    if task.kind == "rerank":
        return Estimate(prompt + math.ceil(len(task.prompt) / CHARACTERS_PER_TOKEN) * (len(task.inputs) - 1), 0)
    if task.kind == "embed":
        return Estimate(prompt, 0)
    wanted = task.options.num_predict
    if wanted <= 0:
        return Estimate(prompt, LIKELY_ANSWER_TOKENS)
    return Estimate(prompt, min(wanted, model.context_length or wanted))


def prefix_hashes(task: InferenceTask, model: ModelRef, organization_id: str) -> tuple[int, ...]:
    """Of each block of the conversation together with all before it, so that who has seen the same is found again.

    Salted: nobody learns from them what another organization asks, nor is anything equal across models.
    """
    if task.kind not in ("chat", "generate"):
        return ()
    gathered: list[str] = []
    room = BLOCK_CHARACTERS * MOST_BLOCKS
    for part in _parts(task, model):
        gathered.append(part[:room])
        room -= len(part)
        if room <= 0:
            break
    text = "\0".join(gathered)
    hashing = blake2b(f"{organization_id}\0{model.runner}".encode(), digest_size=8)
    hashes = []
    for end in range(BLOCK_CHARACTERS, min(len(text), BLOCK_CHARACTERS * MOST_BLOCKS) + 1, BLOCK_CHARACTERS):
        hashing.update(text[end - BLOCK_CHARACTERS : end].encode(errors="surrogatepass"))
        hashes.append(int.from_bytes(hashing.digest()))
    return tuple(hashes)


def _parts(task: InferenceTask, model: ModelRef) -> Iterator[str]:
    """In the order in which templates write them. Of images little, which tells them apart well enough."""
    if not task.raw and not any(message.role == "system" for message in task.messages):
        yield model.system if task.system is None else task.system
    if task.tools:
        yield orjson.dumps(task.tools).decode()
    if task.context:
        yield str(task.context[: BLOCK_CHARACTERS * MOST_BLOCKS])
    for message in (*model.messages, *task.messages):
        yield message.role
        yield from map(_image, message.images)
        yield message.thinking
        yield message.content
        for call in message.tool_calls:
            yield call.function.name
            yield orjson.dumps(call.function.arguments).decode()
    yield from map(_image, task.images)
    yield task.prompt
    yield task.suffix


def _image(data: str) -> str:
    return f"{len(data)} {data[-64:]}"
