"""Any OpenAI-compatible server: vLLM, SGLang, llama-server, Ollama, or a cluster behind one address."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

import httpx
import orjson

from libs.common.contracts.inference import EngineName, InferenceTask
from libs.common.errors import (
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    Overloaded,
    ServiceError,
    UnsupportedByModel,
    UpstreamFailed,
)
from services.worker.engines.base import Embeddings, Finish, Job, LoadedEngine, LoadSpec, Piece, Ranks, Upstream
from services.worker.engines.openai_request import openai_request
from services.worker.engines.openai_wire import error_text, read_logprobs, server_sent_json
from services.worker.engines.tool_calls import CallNumbering, StreamedCalls
from services.worker.engines.vectors import finished

# Longest silence before the first token (an upstream may queue) and between two.
SILENCE_SECONDS: Final = 120.0


class OpenAIHttpEngine:
    name: EngineName = "openai_http"

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._upstreams = tuple(upstreams)

    async def load(self, spec: LoadSpec) -> LoadedEngine:
        """Nothing is loaded: the first upstream whose pattern fits is chosen."""
        for name in (spec.model.name, spec.model.name.removesuffix(":latest")):
            for upstream in self._upstreams:
                if fnmatchcase(name, upstream.pattern):
                    return UpstreamModel(spec, upstream)
        raise ModelLoadFailed(f"no upstream is configured for '{spec.model.name}'")


class UpstreamModel:
    size = 0
    size_vram = 0

    def __init__(self, spec: LoadSpec, upstream: Upstream) -> None:
        self.context_length = spec.context_length
        self.slots = spec.slots
        self._upstream_name = upstream.model or spec.model.name.removesuffix(":latest")
        self._client = httpx.AsyncClient(
            base_url=upstream.base_url,
            headers={"Authorization": f"Bearer {upstream.api_key}"} if upstream.api_key else {},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=10),
            # Shorter than the 5 s after which common servers drop an idle connection.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=spec.slots, keepalive_expiry=3),
        )

    def can_resume(self, job: Job) -> bool:
        """Never: the protocol tells no token ids."""
        return False

    def failure(self) -> str | None:
        return None

    async def close(self) -> None:
        await self._client.aclose()

    async def generate(self, job: Job) -> AsyncGenerator[Piece | Finish, None]:
        path, body = await openai_request(job, self._upstream_name)
        calls = StreamedCalls(CallNumbering(job.request_id), only_one=not job.task.parallel_tool_calls)
        progress = _Progress(job, calls, time.perf_counter_ns())
        content = orjson.dumps(body)
        async with _upstream_errors(), self._client.stream("POST", path, content=content) as response:
            await _check(response)
            async with aclosing(server_sent_json(response)) as events:
                async for event in events:
                    if piece := progress.piece(event):
                        yield piece
        yield progress.finish()

    async def embed(self, task: InferenceTask) -> Embeddings:
        async with _upstream_errors():
            answer = await self._ask("embeddings", {"input": task.inputs})
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            vectors = await asyncio.to_thread(lambda: [finished(row["embedding"], task) for row in rows])
            return Embeddings(vectors, _count(answer.get("usage") or {}, "prompt_tokens"))

    async def rerank(self, task: InferenceTask) -> Ranks:
        """As Jina and Cohere do, and after them vLLM, SGLang and llama-server: OpenAI itself ranks nothing."""
        async with _upstream_errors():
            try:
                answer = await self._ask("rerank", {"query": task.prompt, "documents": task.inputs})
            except ModelNotFound as error:
                raise UnsupportedByModel(
                    f"the upstream of this model does not rank documents: {error.message}"
                ) from error
            scores = {int(row["index"]): float(row["relevance_score"]) for row in answer["results"]}
            usage = answer.get("usage") or {}
            tokens = _count(usage, "prompt_tokens") or _count(usage, "total_tokens")
            return Ranks([scores[index] for index in range(len(task.inputs))], tokens)

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        raise UnsupportedByModel("this model's server does not tell its tokens")

    async def detokenize(self, ids: Sequence[int]) -> str:
        raise UnsupportedByModel("this model's server does not tell its tokens")

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        content = await asyncio.to_thread(orjson.dumps, {"model": self._upstream_name, **body})
        response = await self._client.post(path, content=content)
        await _check(response)
        answer: dict[str, Any] = await asyncio.to_thread(orjson.loads, response.content)
        return answer


@dataclass
class _Progress:
    """What one stream has told so far."""

    job: Job
    calls: StreamedCalls
    began_ns: int
    first_ns: int = 0
    chunks: int = 0
    done_reason: str = ""
    stop_sequence: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def piece(self, event: dict[str, Any]) -> Piece | None:
        """The new text of a chunk, if it has any. Raises ``UpstreamFailed`` if the chunk tells of an error."""
        if "error" in event:
            raise UpstreamFailed(f"the upstream failed: {error_text(orjson.dumps(event))}")
        if usage := event.get("usage"):
            self.prompt_tokens = _count(usage, "prompt_tokens")
            self.completion_tokens = _count(usage, "completion_tokens")
        if not (choices := event.get("choices")):
            return None
        choice = choices[0]
        delta = choice.get("delta") or choice
        calls = self.calls.add(delta.get("tool_calls") or ())
        if reason := choice.get("finish_reason"):
            self.done_reason = "length" if reason == "length" else "stop"
            self.stop_sequence = _stop_sequence(choice)
            calls += self.calls.finish()
        thinking = _text(delta, "reasoning_content", "reasoning")
        piece = Piece(
            text=_text(delta, "content", "text"),
            thinking=thinking if self.job.task.think is not False else "",
            tool_calls=calls,
            logprobs=read_logprobs(_logprobs_of(choice), self.job.task.top_logprobs),
        )
        if piece == _NOTHING:
            return None
        self.chunks += 1
        self.first_ns = self.first_ns or time.perf_counter_ns()
        return piece

    def finish(self) -> Finish:
        """Raises ``UpstreamFailed`` if the upstream never said that it was done."""
        if not self.done_reason:
            raise UpstreamFailed("the upstream ended its answer too early")
        now = time.perf_counter_ns()
        first = self.first_ns or now
        return Finish(
            self.done_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens or self.chunks,
            prompt_ns=max(1, first - self.began_ns),
            completion_ns=max(1, now - first),
            stop_sequence=self.stop_sequence,
        )


_NOTHING: Final = Piece()


def _text(delta: dict[str, Any], *names: str) -> str:
    """The first of them that says something. Raises ``TypeError`` if that is no text."""
    text = next((delta[name] for name in names if delta.get(name)), "")
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} instead of text")
    return text


def _stop_sequence(choice: dict[str, Any]) -> str:
    """In vLLM's word for it, and in SGLang's. Both name a token by its number, others nothing at all."""
    given = choice.get("stop_reason") or choice.get("matched_stop")
    return given if isinstance(given, str) else ""


def _count(usage: dict[str, Any], name: str) -> int:
    return int(usage.get(name) or 0)


def _logprobs_of(choice: dict[str, Any]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = (choice.get("logprobs") or {}).get("content") or []
    return entries


async def _check(response: httpx.Response) -> None:
    """Raises what an error status means to the caller."""
    if response.status_code >= 400:
        raise _refusal(response.status_code, error_text(await response.aread()))


def _refusal(status: int, text: str) -> ServiceError:
    if status == 404:
        return ModelNotFound(text)
    if status in {429, 503}:
        return Overloaded(f"the upstream is busy: {text}")
    if status in {401, 403} or status >= 500:  # credentials are ours, not the caller's
        return UpstreamFailed(f"the upstream failed with status {status}: {text}")
    return InvalidRequest(text)


@asynccontextmanager
async def _upstream_errors() -> AsyncIterator[None]:
    """Whatever an upstream does or says that it should not is its failure, and no fault of the request."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise UpstreamFailed("the upstream did not answer in time") from error
    except (httpx.TransportError, orjson.JSONDecodeError) as error:
        raise UpstreamFailed(f"the upstream failed: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UpstreamFailed(f"the upstream's answer makes no sense: {error!r}") from error
    except EngineFailed as error:
        raise UpstreamFailed(error.message) from error
