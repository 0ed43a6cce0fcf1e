"""A deterministic engine for tests and benchmarks: it answers with numbered words, ``w0 w1 w2 ...``.

Token *i* is the word ``w<i>`` and its id is *i*, whatever the prompt: a lost, doubled or swapped token shows at once.
The parts of the model's name say how it behaves, in this order:

- ``echo``: as fast as it can;
- ``-think``: it can think: ``t0 t1 ... t7`` before the answer, unless ``think`` is false;
- ``-tools``: it calls every tool it is offered, or the first if it may make one call only, in order and with arguments
  made of their parameters, unless the last message is a tool's result and no call is required;
- ``-vision``: it takes images (and neither thinks nor calls tools);
- ``-50``: 50 tokens a second;
- ``-fail-after-10``: each run dies after 10 tokens of its own, as an engine that crashes does.

``num_predict`` tokens are generated, thinking included, 64 if it is not positive and at most 100,000; a tool call is
one token. With a ``format`` the words make up one JSON object. Every token has logprobs: ``-0.125``, and its
alternatives the same text with primes, ``-1``, ``-2`` and so on. A rendered prompt has a line ``role: content`` for
each message. A word whose token has a ``logit_bias`` of -100 or less is left out; other biases change nothing.

A text's tokens are its words: ``w<i>`` is token *i*, any other word one below 2**31 that follows from its letters. A
document's rank is the share of the query's words that it has, from 0 to 1.
"""

import asyncio
import hashlib
import itertools
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from libs.common.contracts.inference import ChatMessage, EngineName, InferenceTask
from libs.common.contracts.tokens import Logprob, TopLogprob
from libs.common.errors import ContextExceeded, EngineFailed, InvalidRequest, ModelLoadFailed, UnsupportedByModel
from services.worker.engines.base import BANS, Embeddings, Finish, Job, LoadedEngine, LoadSpec, Piece, Ranks
from services.worker.engines.conversation import conversation
from services.worker.engines.echo_tools import call_tools
from services.worker.engines.images import check_images, count_images
from services.worker.engines.vectors import finished

DEFAULT_TOKENS = 64
MOST_TOKENS = 100_000
"""Their words are all made before the first is told: more would silence the worker until it is taken for lost."""
THINKING_TOKENS = 8
VECTOR_LENGTH = 64
VOCABULARY = 2**31

_NAME = re.compile(
    r"echo(?:-(?P<vision>vision)|(?:-(?P<think>think))?(?:-(?P<tools>tools))?)"
    r"(?:-(?P<rate>[1-9]\d{0,5}))?(?:-fail-after-(?P<fail>\d{1,6}))?(?::latest)?"
)


class EchoEngine:
    name: EngineName = "echo"

    async def load(self, spec: LoadSpec) -> LoadedEngine:
        match = _NAME.fullmatch(spec.model.name)
        if match is None:
            raise ModelLoadFailed(f"no echo model is called '{spec.model.name}'")
        return EchoModel(spec, match)


class EchoModel:
    size = 0
    size_vram = 0

    def __init__(self, spec: LoadSpec, name: re.Match[str]) -> None:
        self.context_length = spec.context_length
        self.slots = spec.slots
        self._sees, self._thinks, self._calls = (bool(name[part]) for part in ("vision", "think", "tools"))
        self._tokens_per_second = int(name["rate"]) if name["rate"] else None
        self._fail_after = int(name["fail"]) if name["fail"] else None
        self._failure: str | None = None

    def can_resume(self, job: Job) -> bool:
        task = job.task
        thinks = self._thinks and task.think is not False
        return task.format is None and not thinks and not task.logprobs and not (self._calls and task.tools)

    async def generate(self, job: Job) -> AsyncGenerator[Piece | Finish, None]:
        task, clock = job.task, asyncio.get_running_loop().time
        messages = conversation(task, job.model)
        await self._check(task, messages)
        prompt_tokens = self._count_prompt(task, messages)
        if task.debug_render_only:
            rendered, images = _rendered(task, messages), count_images(messages)
            yield Finish("stop", 0, 0, 1, 1, rendered=rendered, prompt_length=prompt_tokens, image_count=images)
            return
        job.spent.prompt_tokens = prompt_tokens
        began, done = clock(), 0
        answer = self._answer(job, messages)
        for piece in islice(answer.pieces, len(job.resume), None):
            if done == self._fail_after:
                self._failure = f"it was made to fail after {done} tokens"
                raise EngineFailed(self._failure)
            done += 1
            await asyncio.sleep(began + done / self._tokens_per_second - clock() if self._tokens_per_second else 0)
            yield replace(piece, logprobs=(_logprob(piece, task.top_logprobs),)) if task.logprobs else piece
        yield Finish(
            done_reason="stop" if answer.ends else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=done,
            prompt_ns=1,
            completion_ns=max(1, int((clock() - began) * 1e9)),
            context=(*task.context, *_ids(task, answer.count)) if task.kind == "generate" and not task.raw else (),
            stop_sequence=answer.stop_sequence,
        )

    async def embed(self, task: InferenceTask) -> Embeddings:
        words, limit = [text.split() for text in task.inputs], self._context_for(task)
        if not task.truncate and any(len(text) > limit for text in words):
            raise ContextExceeded("the input length exceeds the context length")
        kept = [text[:limit] for text in words]
        return Embeddings([finished(_vector(text), task) for text in kept], sum(map(len, kept)))

    async def rerank(self, task: InferenceTask) -> Ranks:
        query, documents = task.prompt.split(), [text.split() for text in task.inputs]
        scores = [len(set(query) & set(text)) / len(set(query)) if query else 0.0 for text in documents]
        return Ranks(scores, len(query) + sum(map(len, documents)))

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return [_token(word) for word in text.split()]

    async def detokenize(self, ids: Sequence[int]) -> str:
        for number in ids:
            if not 0 <= number < VOCABULARY:
                raise InvalidRequest(f"{number} is no token of this model: it has {VOCABULARY}")
        return " ".join(f"w{number}" for number in ids)

    def failure(self) -> str | None:
        return self._failure

    async def close(self) -> None:
        self._failure = self._failure or "it was closed"

    async def _check(self, task: InferenceTask, messages: Sequence[ChatMessage]) -> None:
        if count_images(messages):
            if not self._sees:
                raise UnsupportedByModel("this model does not support images")
            await asyncio.to_thread(check_images, messages)

    def _count_prompt(self, task: InferenceTask, messages: Sequence[ChatMessage]) -> int:
        words, limit = sum(len(message.content.split()) for message in messages), self._context_for(task)
        if task.truncate:
            return max(1, min(words, limit))
        if words > limit and not task.debug_render_only:
            raise ContextExceeded("the prompt length exceeds the context length")
        return max(1, words)

    def _context_for(self, task: InferenceTask) -> int:
        return min(self.context_length, task.options.num_ctx or self.context_length)

    def _answer(self, job: Job, messages: Sequence[ChatMessage]) -> "_Answer":
        task = job.task
        limit = min(task.options.num_predict, MOST_TOKENS) if task.options.num_predict > 0 else DEFAULT_TOKENS
        ends = task.options.num_predict <= 0
        thinking: list[Piece] = []
        if self._thinks and task.think is not False:
            thinking = [Piece(thinking=f" t{i}" if i else "t0") for i in range(min(limit, THINKING_TOKENS))]
        room = limit - len(thinking)
        if self._calls and task.tools and (messages[-1].role != "tool" or task.tool_choice == "required"):
            calls = [Piece(tool_calls=(call,)) for call in call_tools(job)]
            called = [*thinking, *calls[:room]]
            return _Answer(iter(called), len(called), len(calls) <= room)
        words, stop = _words(task, room)
        ends = ends or bool(stop) or (task.format is not None and bool(words))
        numbered = self.can_resume(job)
        said = (Piece(word, (index,) if numbered else ()) for index, word in zip(_ids(task, room), words, strict=False))
        return _Answer(chain(thinking, said), len(thinking) + len(words), ends, stop)


@dataclass(frozen=True)
class _Answer:
    pieces: Iterator[Piece]
    """One for each token, made one by one: to make very many at once would silence the worker."""

    count: int
    ends: bool
    """By itself."""

    stop_sequence: str = ""


def _words(task: InferenceTask, count: int) -> tuple[list[str], str]:
    """The words of the answer, cut at the first stop string, and that string."""
    ids = list(_ids(task, count))
    words = list(_json_words(ids)) if task.format else [f"{' ' if at else ''}w{i}" for at, i in enumerate(ids)]
    text = "".join(words)
    stops = [(at, stop) for stop in task.options.stop if stop and (at := text.find(stop)) >= 0]
    if not stops:
        return words, ""
    at, stop = min(stops)
    return _cut(words, at), stop


def _ids(task: InferenceTask, count: int) -> Iterator[int]:
    """Of the first ``count`` words that it may say."""
    banned = {token for token, bias in task.options.logit_bias if bias <= BANS}
    return islice((i for i in itertools.count() if i not in banned), count)


def _json_words(ids: Sequence[int]) -> Iterator[str]:
    """``{"w0": 0, "w1": 1}`` in pieces."""
    for at, i in enumerate(ids):
        opening, closing = ", " if at else "{", "}" if at == len(ids) - 1 else ""
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


def _logprob(piece: Piece, top: int) -> Logprob:
    """A call's token is the name of its tool."""
    token = piece.text or piece.thinking or str(piece.tool_calls[0]["function"]["name"])
    others = [TopLogprob(text := token + "'" * i, -float(i) or -0.125, text.encode()) for i in range(top)]
    return Logprob(token, -0.125, token.encode(), others)


def _rendered(task: InferenceTask, messages: Sequence[ChatMessage]) -> str:
    if task.raw:
        return task.prompt
    return "".join(f"{message.role}: {message.content}\n" for message in messages)


def _token(word: str) -> int:
    if re.fullmatch(r"w(0|[1-9][0-9]{0,9})", word) and (number := int(word[1:])) < VOCABULARY:
        return number
    return int.from_bytes(hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=4).digest()) % VOCABULARY


def _vector(words: Sequence[str]) -> list[float]:
    digest = hashlib.shake_128(" ".join(words).encode()).digest(VECTOR_LENGTH)
    return [(byte - 127.5) / 127.5 for byte in digest]
