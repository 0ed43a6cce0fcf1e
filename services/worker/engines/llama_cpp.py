"""llama.cpp: each loaded model in a child process of its own, so that a crash takes one model and not the worker."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from llguidance import LLMatcher

from libs.common.contracts.inference import EngineName, InferenceTask, OutputFormat
from libs.common.errors import ContextExceeded, InvalidRequest, ModelLoadFailed, UnsupportedByModel
from services.worker.engines.base import Embeddings, Finish, Job, LoadedEngine, LoadSpec, Piece
from services.worker.engines.llama_process import SILENCE_SECONDS, LlamaProcess
from services.worker.engines.llama_prompt import cut, prompt_ids, tokenize
from services.worker.engines.vectors import normalise

# A cancel is seen between two batches of a prompt: on a processor, larger ones are hardly quicker but hold it up.
PROMPT_BATCH: Final = 128

# Without num_predict a model that never stops is stopped here, as Ollama does.
MOST_CONTEXTS: Final = 10

# Bounded: a small model may find nothing better than one more space, for ever.
JSON_WHITESPACE: Final = r"( |\n[ \t]{0,20})?"

FINAL_FIELDS: Final = ["stop", "stop_type", "tokens_predicted", "timings"]


class LlamaCppEngine:
    name: EngineName = "llama_cpp"

    def __init__(self, threads: int, load_timeout_seconds: float) -> None:
        self._threads = threads
        self._load_timeout_seconds = load_timeout_seconds

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
                # An embedding is made of one batch: it must hold the longest input.
                "batch": spec.context_length if embedding else min(PROMPT_BATCH, spec.context_length),
                "embedding": embedding,
                "pooling": "mean" if embedding and "embedding" not in spec.model.capabilities else "model",
            }
            return await LlamaProcess.start(config, self._load_timeout_seconds)

        generates = "completion" in spec.model.capabilities
        process = await start(not generates)
        size = (await asyncio.to_thread(weights.stat)).st_size + process.private_bytes()
        return LlamaCppModel(spec, process, generates, size, start)


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
        self._model = spec.model
        self._process = process
        self._generates = generates
        self._embedder = None if generates else process
        self._embedder_lock = asyncio.Lock()
        self._start = start

    def can_resume(self, task: InferenceTask) -> bool:
        """Not with what depends on more than the tokens so far: the state of a grammar, or counts for penalties."""
        options = task.options
        penalises = options.repeat_penalty != 1 or options.presence_penalty != 0 or options.frequency_penalty != 0
        return task.format is None and not penalises

    def failure(self) -> str | None:
        return self._process.failure()

    @property
    def pid(self) -> int:
        """Of the process that generates."""
        return self._process.pid

    async def close(self) -> None:
        async with self._embedder_lock:
            if self._embedder is not None:
                await self._embedder.close()
        await self._process.close()

    async def generate(self, job: Job) -> AsyncGenerator[Piece | Finish, None]:
        task = job.task
        if not self._generates:
            raise UnsupportedByModel(f'"{self._model.name}" does not support {task.kind}')
        await _check_format(task.format)
        prompt = await prompt_ids(self._process, job, self._model, self.context_length)
        ids = cut([*prompt, *job.resume], task.options.num_keep, self.context_length - 1)
        budget = _budget(task, len(ids), len(job.resume), self.context_length)
        if budget <= 0 or await self._has_stopped(job):
            yield Finish("length" if budget <= 0 else "stop", len(prompt), 0, 1, 1)
            return
        generated = list(job.resume)
        async with aclosing(self._complete(_completion(task, ids, budget, self.context_length))) as answer:
            async for part in answer:
                if isinstance(part, Piece):
                    generated += part.token_ids
                    yield part
                else:
                    continues = task.kind == "generate" and not task.raw
                    yield _finish(part, len(prompt), (*prompt, *generated) if continues else ())

    async def _has_stopped(self, job: Job) -> bool:
        """Whether what is to be continued already ends in a stop string: its end was lost, not its text."""
        if not job.resume or not job.task.options.stop:
            return False
        text = await self.detokenize(list(job.resume))
        return any(stop in text for stop in job.task.options.stop if stop)

    async def _complete(self, request: dict[str, Any]) -> AsyncGenerator[Piece | dict[str, Any], None]:
        """Pieces, and at last the server's final event.

        The server keeps back the text of a possible stop string but delivers its ids; of an unfinished character it
        keeps back the ids too and delivers only the last, so those are counted, and made again from the text.
        """
        held: list[int] = []
        paired = 0
        async with aclosing(self._process.stream("/completion", request)) as events:
            async for event in events:
                if event.get("stop"):
                    if held and event["stop_type"] == "limit" and (text := await self._held_text(held, event, paired)):
                        yield Piece(text, tuple(held))
                    yield event
                elif "prompt_progress" not in event:
                    held += event["tokens"]
                    if text := event["content"]:
                        count = event["tokens_predicted"] - paired
                        yield Piece(text, tuple(held if len(held) == count else await self._ids_of(text)))
                        held, paired = [], event["tokens_predicted"]

    async def _held_text(self, held: list[int], final: dict[str, Any], paired: int) -> str:
        """Text the server still held back when the budget was used up; empty if it ends in half a character."""
        if final["tokens_predicted"] - paired != len(held):
            return ""
        text = await self.detokenize(held)
        return "" if "\ufffd" in text else text

    async def _ids_of(self, text: str) -> list[int]:
        """Ids that make exactly this text. After a line break, because some vocabularies put a space in front."""
        lead = await tokenize(self._process, "\n", special=False)
        ids = await tokenize(self._process, "\n" + text, special=False)
        return ids[len(lead) :] if ids[: len(lead)] == lead else await tokenize(self._process, text, special=False)

    async def detokenize(self, ids: list[int]) -> str:
        """Bytes that are no character become U+FFFD."""
        text: str = (await self._process.ask("/detokenize", {"tokens": ids}))["content"]
        return text

    async def embed(self, inputs: tuple[str, ...], *, truncate: bool, dimensions: int | None) -> Embeddings:
        process = await self._embedding_process()
        prompts = [await self._fit(process, text, truncate) for text in inputs]
        vectors: list[list[float]] = []
        for at in range(0, len(prompts), self.slots):
            batch = prompts[at : at + self.slots]
            rows = await process.ask("/embedding", {"content": batch}, timeout=SILENCE_SECONDS * len(batch))
            vectors += await asyncio.to_thread(_vectors, rows, dimensions)
        return Embeddings(vectors, sum(map(len, prompts)))

    async def _embedding_process(self) -> LlamaProcess:
        async with self._embedder_lock:
            if self._embedder is None or (self._embedder.failure() and self._generates):
                self._embedder = await self._start(True)
            return self._embedder

    async def _fit(self, process: LlamaProcess, text: str, truncate: bool) -> list[int]:
        """Ids of one input, cut in front of what the model wants at the end (as [SEP])."""
        ids = await tokenize(process, text, special=True)
        if len(ids) <= self.context_length:
            return ids
        if not truncate:
            raise ContextExceeded("the input length exceeds the context length")
        plain = await tokenize(process, text, special=False)
        start = next((i for i in range(len(ids) - len(plain) + 1) if ids[i : i + len(plain)] == plain), 0)
        tail = ids[start + len(plain) :]
        return ids[: self.context_length - len(tail)] + tail


async def _check_format(output: OutputFormat) -> None:
    """The server ignores a schema it cannot compile: ask its grammar library first. Raises ``InvalidRequest``."""
    if output is None:
        return
    grammar = LLMatcher.grammar_from_json_schema(_schema(output))
    if problem := await asyncio.to_thread(LLMatcher.validate_grammar, grammar):
        raise InvalidRequest(f"invalid format: {problem.splitlines()[0]}")


def _budget(task: InferenceTask, prompt_length: int, done: int, context_length: int) -> int:
    """How many tokens may still be generated."""
    wanted = task.options.num_predict if task.options.num_predict > 0 else MOST_CONTEXTS * context_length
    room = wanted if task.shift else context_length - prompt_length
    return min(wanted - done, room)


def _completion(task: InferenceTask, ids: list[int], budget: int, context_length: int) -> dict[str, Any]:
    """Negative: for num_keep the whole prompt, for repeat_last_n the whole context. The server refuses some of it."""
    options = task.options
    request: dict[str, Any] = {
        "prompt": ids,
        "n_predict": budget,
        "n_keep": max(-1, options.num_keep),
        "stream": True,
        "return_tokens": True,
        "return_progress": True,  # a sign of life, and a chance to notice that the client went away
        "cache_prompt": True,
        "response_fields": FINAL_FIELDS,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "repeat_last_n": options.repeat_last_n if options.repeat_last_n >= 0 else context_length,
        "repeat_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": options.seed % 0xFFFFFFFF,  # the one above means random
        "stop": [stop for stop in options.stop if stop],
    }
    if task.format is not None:
        request["json_schema"] = _schema(task.format)
    return request


def _schema(output: OutputFormat) -> dict[str, Any]:
    schema = output if isinstance(output, dict) else {"type": "object"}
    return schema | {"x-guidance": {"whitespace_pattern": JSON_WHITESPACE}}


def _finish(final: dict[str, Any], prompt_tokens: int, context: tuple[int, ...]) -> Finish:
    timings = final["timings"]
    return Finish(
        done_reason="length" if final["stop_type"] == "limit" else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=final["tokens_predicted"],
        prompt_ns=max(1, int(timings["prompt_ms"] * 1e6)),
        completion_ns=max(1, int(timings["predicted_ms"] * 1e6)),
        context=context,
    )


def _vectors(rows: list[dict[str, Any]], dimensions: int | None) -> list[list[float]]:
    """The pooled vector of each row, in the order asked."""
    return [normalise(row["embedding"][0], dimensions) for row in sorted(rows, key=lambda row: int(row["index"]))]
