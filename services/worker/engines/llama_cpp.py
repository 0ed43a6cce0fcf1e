"""llama.cpp: each loaded model in a child process of its own, so that a crash takes one model and not the worker."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from libs.common.contracts.inference import EngineName, InferenceTask, ModelRef
from libs.common.errors import ContextExceeded, EngineFailed, ModelLoadFailed, UnsupportedByModel
from services.worker.engines.base import Embeddings, Finish, Job, LoadedEngine, LoadSpec, Piece, Ranks
from services.worker.engines.call_or_answer import call_or_answer
from services.worker.engines.grammar import check_format
from services.worker.engines.images import count_images
from services.worker.engines.llama_chat import chat
from services.worker.engines.llama_completion import complete, sampling
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.llama_prompt import Prompt, build_prompt, cut, length
from services.worker.engines.llama_rerank import rank
from services.worker.engines.llama_split import complete_apart, splitter_for
from services.worker.engines.llama_template import GoTemplate, Template, template_of
from services.worker.engines.llama_tokens import check_tokens, detokenize, tokenize, tokenize_inside
from services.worker.engines.vectors import cosines, finished

# A cancel is seen between two batches of a prompt: on a processor, larger ones are hardly quicker but hold it up.
PROMPT_BATCH: Final = 64

# A load may stall for as long as the setting says, and besides read the weights as slowly as this.
SLOWEST_BYTES_PER_SECOND: Final = 20_000_000

# Without num_predict a model that never stops is stopped here, as Ollama does.
MOST_CONTEXTS: Final = 10

# What the server calls a norm; their length is our affair.
EMBEDDINGS_AS_THEY_ARE: Final = -1


class LlamaCppEngine:
    name: EngineName = "llama_cpp"

    def __init__(self, threads: int, load_timeout_seconds: float, silence_seconds: float) -> None:
        self._threads = threads
        self._load_timeout_seconds = load_timeout_seconds
        self._silence_seconds = silence_seconds

    async def load(self, spec: LoadSpec) -> LoadedEngine:
        weights = spec.weights
        if weights is None:
            raise ModelLoadFailed(f"'{spec.model.name}' has no weights")

        async def start(embedding: bool) -> LlamaProcess:
            config = {
                "model_path": str(weights.resolve()),
                "context_length": spec.context_length,
                "slots": spec.slots,
                "threads": self._threads,
                # An embedding is made of one batch: it must hold the longest input. An answer has its prompt read
                # beside the tokens of the others.
                "batch": spec.context_length if embedding else min(PROMPT_BATCH + spec.slots, spec.context_length),
                "embedding": embedding,
                "pooling": _pooling(spec.model) if embedding else "model",
                "adapters": [str(path.resolve()) for path in spec.adapters],
                "projector": str(spec.projector.resolve()) if spec.projector and not embedding else "",
            }
            timeout = self._load_timeout_seconds + spec.model.size / SLOWEST_BYTES_PER_SECOND
            return await LlamaProcess.start(config, timeout, self._silence_seconds)

        # First: they may be deleted while they are loaded, and nothing may fail once there is a process to end.
        mapped = await asyncio.to_thread(_size, weights)
        generates = "completion" in spec.model.capabilities
        process = await start(not generates)
        return LlamaCppModel(spec, process, generates, mapped + process.private_bytes(), start)


class LlamaCppModel:
    """One process that generates; a second one, started when first needed, that embeds.

    A context of llama.cpp could do both, but an input to embed must fit in one batch, and with batches that large
    reading a prompt would hold up every other slot. The two share the mapped weights.
    """

    size_vram = 0

    def __init__(
        self,
        spec: LoadSpec,
        process: LlamaProcess,
        generates: bool,
        size: int,
        start: Callable[[bool], Awaitable[LlamaProcess]],
    ) -> None:
        self.context_length = spec.context_length
        self.slots = spec.slots
        self.size = size
        self._process = process
        self._generates = generates
        self._ranks = "rerank" in spec.model.capabilities
        self._embedder = None if generates else process
        self._embedder_lock = asyncio.Lock()
        self._start = start

    def can_resume(self, job: Job) -> bool:
        """Plain text, with whatever penalties: to the server all tokens before the next count alike.

        The rest depends on more than the tokens so far, as the state of a grammar or a parser.
        """
        task = job.task
        parsed = bool(task.tools) or ("thinking" in job.model.capabilities and not task.raw) or _has_images(task)
        return task.format is None and not parsed

    def failure(self) -> str | None:
        return self._process.failure()

    @property
    def pid(self) -> int:
        """Of the process that generates."""
        return self._process.pid

    async def close(self) -> None:
        await self._process.close()  # first, so that no embedder is started any more
        async with self._embedder_lock:
            if self._embedder is not None:
                await self._embedder.close()

    async def generate(self, job: Job) -> AsyncGenerator[Piece | Finish, None]:
        task = job.task
        if not self._generates:
            raise UnsupportedByModel(f'"{job.model.name}" does not support {task.kind}')
        await check_format(task.format)
        template = await template_of(self._process, job)
        context_length = self._context_for(task)
        only_measured = task.debug_render_only and not task.truncate
        prompt = await build_prompt(self._process, job, template, sys.maxsize if only_measured else context_length - 1)
        if task.debug_render_only:
            yield _rendered(prompt)
            return
        if task.options.logit_bias:
            await check_tokens(self._process, [token for token, _ in task.options.logit_bias])
        ids = cut([*prompt.ids, *job.resume], task.options.num_keep, context_length - 1)
        budget = _budget(task, len(ids), len(job.resume), context_length)
        stop = await self._stop_in(job)
        if budget <= 0 or stop:
            yield Finish("stop" if stop else "length", len(prompt.ids), 0, 1, 1, stop_sequence=stop)
            return
        job.spent.prompt_tokens = len(prompt.ids)
        request = sampling(task, budget, context_length, len(job.resume))
        generated, text = list(job.resume), ""
        async with aclosing(self._answer(job, template, prompt, ids, request)) as answer:
            async for part in answer:
                if isinstance(part, Piece):
                    generated += part.token_ids
                    text += part.text if not part.token_ids else ""
                    yield part
                else:
                    context = await self._context(job, prompt, generated, text)
                    yield replace(part, prompt_tokens=part.prompt_tokens or len(prompt.ids), context=context)

    def _answer(
        self, job: Job, template: Template, prompt: Prompt, ids: list[int], request: dict[str, Any]
    ) -> AsyncGenerator[Piece | Finish, None]:
        if job.task.tools and "json_schema" in request:
            free = {name: value for name, value in request.items() if name != "json_schema"}
            parts = [self._parsed(job, template, prompt, ids, each) for each in (free, request)]
            return call_or_answer(*parts)
        return self._parsed(job, template, prompt, ids, request)

    def _parsed(
        self, job: Job, template: Template, prompt: Prompt, ids: list[int], request: dict[str, Any]
    ) -> AsyncGenerator[Piece | Finish, None]:
        if _needs_parser(job, template):
            return chat(self._process, job, prompt, request)
        if splitter := splitter_for(job, template, prompt):
            return complete_apart(self._process, job, splitter, ids, request, limit=self._context_for(job.task) - 1)
        return complete(self._process, job.task, ids, request)

    async def _context(self, job: Job, prompt: Prompt, generated: list[int], text: str) -> tuple[int, ...]:
        """Ids to continue a generate call from."""
        if job.task.kind != "generate" or job.task.raw:
            return ()
        return (*prompt.ids, *(generated or await tokenize_inside(self._process, text, special=False)))

    def _context_for(self, task: InferenceTask) -> int:
        """A request may want less than what is loaded."""
        return min(self.context_length, task.options.num_ctx or self.context_length)

    async def _stop_in(self, job: Job) -> str:
        """The stop string that what is to be continued already ends in, or nothing: its end was lost, not its text."""
        if not job.resume or not job.task.options.stop:
            return ""
        text = await detokenize(self._process, job.resume)
        return next((stop for stop in job.task.options.stop if stop and stop in text), "")

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return await tokenize(self._process, text, special=special)

    async def detokenize(self, ids: Sequence[int]) -> str:
        await check_tokens(self._process, ids)
        return await detokenize(self._process, ids)

    async def rerank(self, task: InferenceTask) -> Ranks:
        """Of a model made for it its own scores, of any other the cosines of query and documents."""
        if self._ranks:
            return await rank(await self._embedding_process(), task, self._context_for(task), self.slots)
        embedded = await self.embed(task.model_copy(update={"inputs": (task.prompt, *task.inputs)}))
        query, *documents = embedded.vectors
        return Ranks(await asyncio.to_thread(cosines, query, documents), embedded.prompt_tokens)

    async def embed(self, task: InferenceTask) -> Embeddings:
        if self._ranks:
            raise UnsupportedByModel("this model ranks documents: it does not support embeddings")
        process = await self._embedding_process()
        prompts = [await self._fit(process, text, task) for text in task.inputs]
        vectors: list[list[float]] = []
        for at in range(0, len(prompts), self.slots):
            batch = prompts[at : at + self.slots]
            body = {"content": batch, "embd_normalize": EMBEDDINGS_AS_THEY_ARE}
            rows = await process.work("/embedding", body, process.silence_seconds * len(batch))
            vectors += await asyncio.to_thread(_vectors, rows, task)
        return Embeddings(vectors, sum(map(len, prompts)))

    async def _embedding_process(self) -> LlamaProcess:
        async with self._embedder_lock:
            if self._generates and (reason := self._process.failure()):
                raise EngineFailed(f"the engine of the model is gone: {reason}")
            if self._embedder is not None and self._embedder.failure() and self._generates:
                await self._embedder.close()
                self._embedder = None
            if self._embedder is None:
                self._embedder = await self._start(True)
            return self._embedder

    async def _fit(self, process: LlamaProcess, text: str, task: InferenceTask) -> list[int]:
        """Ids of one input, cut in front of what the model wants at the end (as [SEP])."""
        ids = await tokenize(process, text, special=True)
        limit = self._context_for(task)
        if len(ids) <= limit:
            return ids
        if not task.truncate:
            raise ContextExceeded("the input length exceeds the context length")
        plain = await tokenize(process, text, special=False)
        start = next((i for i in range(len(ids) - len(plain) + 1) if ids[i : i + len(plain)] == plain), 0)
        tail = ids[start + len(plain) :]
        if len(tail) >= limit:
            raise ContextExceeded("input after truncation exceeds maximum context length")
        return ids[: limit - len(tail)] + tail


def _pooling(model: ModelRef) -> str:
    """How the outputs for the tokens of a text become one; as of ``ChildConfig``."""
    if "rerank" in model.capabilities:
        return "rank"
    return "model" if "embedding" in model.capabilities else "mean"


def _rendered(prompt: Prompt) -> Finish:
    images = count_images(prompt.messages)
    return Finish("stop", 0, 0, 1, 1, rendered=prompt.text, prompt_length=length(prompt), image_count=images)


def _has_images(task: InferenceTask) -> bool:
    return bool(task.images) or any(message.images for message in task.messages)


def _needs_parser(job: Job, template: Template) -> bool:
    """Whether the server's own parser must take the answer apart, or its projector must read images."""
    task = job.task
    if _has_images(task):
        return True
    if isinstance(template, GoTemplate) or task.raw or task.suffix or task.context:
        return False
    return bool(task.tools) or "thinking" in job.model.capabilities


def _budget(task: InferenceTask, prompt_length: int, done: int, context_length: int) -> int:
    """How many tokens may still be generated."""
    wanted = task.options.num_predict if task.options.num_predict > 0 else MOST_CONTEXTS * context_length
    room = wanted if task.shift else context_length - prompt_length
    return min(wanted - done, room)


def _vectors(rows: list[dict[str, Any]], task: InferenceTask) -> list[list[float]]:
    """The pooled vector of each row, in the order asked."""
    return [finished(row["embedding"][0], task) for row in sorted(rows, key=lambda row: int(row["index"]))]


def _size(weights: Path) -> int:
    try:
        return weights.stat().st_size
    except FileNotFoundError:
        raise ModelLoadFailed("the model's weights were deleted meanwhile") from None
