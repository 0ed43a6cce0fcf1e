"""A deterministic engine for tests and benchmarks: it answers with numbered words, ``w0 w1 w2 ...``.

Token *i* is the word ``w<i>`` and its id is *i*, whatever the prompt: a lost, doubled or swapped token shows at once.
The model's name says how it behaves:

- ``echo``: as fast as it can;
- ``echo-50``: 50 tokens a second;
- ``echo-fail-after-10``: each run dies after 10 tokens of its own, as an engine that crashes does.

``num_predict`` tokens are generated, 64 if it is not positive. With a ``format`` they make up one JSON object.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Iterator, Sequence

from libs.common.contracts.inference import EngineName, InferenceTask
from libs.common.errors import ContextExceeded, EngineFailed, ModelLoadFailed
from services.worker.engines.base import Embeddings, Finish, Job, LoadedEngine, LoadSpec, Piece
from services.worker.engines.vectors import normalise

DEFAULT_TOKENS = 64
VECTOR_LENGTH = 64

_NAME = re.compile(r"echo(?:-(?P<rate>[1-9]\d{0,5})|-fail-after-(?P<fail>\d{1,6}))?(?::latest)?")


class EchoEngine:
    name: EngineName = "echo"

    async def load(self, spec: LoadSpec) -> LoadedEngine:
        match = _NAME.fullmatch(spec.model.name)
        if match is None:
            raise ModelLoadFailed(f"no echo model is called '{spec.model.name}'")
        rate, fail = match["rate"], match["fail"]
        return EchoModel(spec, int(rate) if rate else None, int(fail) if fail else None)


class EchoModel:
    size = 0
    size_vram = 0

    def __init__(self, spec: LoadSpec, tokens_per_second: int | None, fail_after: int | None) -> None:
        self.context_length = spec.context_length
        self.slots = spec.slots
        self._tokens_per_second = tokens_per_second
        self._fail_after = fail_after
        self._failure: str | None = None

    def can_resume(self, task: InferenceTask) -> bool:
        return task.format is None

    async def generate(self, job: Job) -> AsyncGenerator[Piece | Finish, None]:
        task, clock = job.task, asyncio.get_running_loop().time
        prompt_tokens = self._count_prompt(task)
        began, done = clock(), 0
        words, stopped = _answer(task)
        for index in range(len(job.resume), len(words)):
            if done == self._fail_after:
                self._failure = f"it was made to fail after {done} tokens"
                raise EngineFailed(self._failure)
            done += 1
            await asyncio.sleep(began + done / self._tokens_per_second - clock() if self._tokens_per_second else 0)
            yield Piece(words[index], (index,))
        yield Finish(
            done_reason="stop" if stopped or task.options.num_predict <= 0 else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=done,
            prompt_ns=1,
            completion_ns=max(1, int((clock() - began) * 1e9)),
            context=(*task.context, *range(len(words))) if task.kind == "generate" and not task.raw else (),
        )

    async def embed(self, inputs: tuple[str, ...], *, truncate: bool, dimensions: int | None) -> Embeddings:
        words = [text.split() for text in inputs]
        if not truncate and any(len(text) > self.context_length for text in words):
            raise ContextExceeded("the input length exceeds the context length")
        kept = [text[: self.context_length] for text in words]
        return Embeddings([normalise(_vector(text), dimensions) for text in kept], sum(map(len, kept)))

    def failure(self) -> str | None:
        return self._failure

    async def close(self) -> None:
        self._failure = self._failure or "it was closed"

    def _count_prompt(self, task: InferenceTask) -> int:
        words = sum(len(text.split()) for text in (task.prompt, *(m.content for m in task.messages)))
        if words > self.context_length and not task.truncate:
            raise ContextExceeded("the prompt length exceeds the context length")
        return max(1, min(words, self.context_length))


def _answer(task: InferenceTask) -> tuple[list[str], bool]:
    """The words of the whole answer, cut at the first stop string, and whether they end by themselves."""
    count = task.options.num_predict if task.options.num_predict > 0 else DEFAULT_TOKENS
    words = list(_json_words(count)) if task.format else [f" w{i}" if i else "w0" for i in range(count)]
    text = "".join(words)
    stops = [at for stop in task.options.stop if stop and (at := text.find(stop)) >= 0]
    return (_cut(words, min(stops)), True) if stops else (words, task.format is not None)


def _json_words(count: int) -> Iterator[str]:
    """``{"w0": 0, "w1": 1}`` in ``count`` pieces."""
    for i in range(count):
        opening, closing = "{" if i == 0 else ", ", "}" if i == count - 1 else ""
        yield f'{opening}"w{i}": {i}{closing}'


def _cut(words: Sequence[str], length: int) -> list[str]:
    """The words that make up the first ``length`` characters, the last one cut short."""
    kept: list[str] = []
    for word in words:
        if length <= 0:
            break
        kept.append(word[:length])
        length -= len(word)
    return kept


def _vector(words: Sequence[str]) -> list[float]:
    digest = hashlib.shake_128(" ".join(words).encode()).digest(VECTOR_LENGTH)
    return [(byte - 127.5) / 127.5 for byte in digest]
