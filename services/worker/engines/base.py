"""What an engine is: it loads a model, and a loaded model generates, embeds, ranks, reads tokens, and is closed."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from libs.common.contracts.inference import EngineName, InferenceTask, ModelRef
from libs.common.contracts.tokens import Logprob

BANS: Final = -100.0
"""A ``logit_bias`` that is as low as this bans its token, as OpenAI means it."""


@dataclass(frozen=True)
class LoadSpec:
    """How to load a model. Files are verified GGUF; ``weights`` is None for engines that have none."""

    model: ModelRef
    weights: Path | None
    context_length: int
    slots: int
    projector: Path | None = None
    adapters: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Some text and the ids of exactly the tokens it is made of.

    Text an engine holds back (an unfinished UTF-8 character, a possible stop string) keeps its token ids back with
    it, so that whoever continues after ``token_ids`` neither loses nor repeats a byte. An answer that is taken apart
    into text, thinking and tool calls has no ids: it is replayed.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    """Whole calls, in the shape of Ollama's API."""

    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class Finish:
    """The last thing ``generate`` yields. Counts and times are of this run alone.

    ``prompt_tokens`` is the prompt without ``Job.resume``, ``completion_tokens`` only what this run has generated.
    """

    done_reason: str
    prompt_tokens: int
    completion_tokens: int
    prompt_ns: int
    completion_ns: int
    context: tuple[int, ...] = ()
    """Token ids of prompt and answer, where the engine knows them."""

    rendered: str | None = None
    """The prompt, where only that was asked for; nothing was generated, and nothing is billed."""

    prompt_length: int = 0
    """In tokens, of what was rendered."""

    image_count: int = 0
    stop_sequence: str = ""
    """The stop string that ended it, where the engine tells."""


@dataclass(frozen=True)
class Embeddings:
    vectors: list[list[float]]
    """Of length one, unless the task wants them as they are."""

    prompt_tokens: int


@dataclass(frozen=True)
class Ranks:
    scores: list[float]
    """Of the documents, in their order: the higher, the more relevant. Their scale is the model's own."""

    prompt_tokens: int


@dataclass
class Spent:
    """What a generation has cost so far, for one that does not come to its end. Tokens of this run and earlier ones."""

    prompt_tokens: int = 0
    """Told by the engine once it works on the prompt; 0 if it does not know."""

    completion_tokens: int = 0


@dataclass(frozen=True)
class Job:
    """One generation. ``resume`` holds ids already generated: go on after them, and count them against num_predict.

    ``model`` is the one asked for. What is loaded may bear another name: models that differ only in prompts share it.
    """

    request_id: str
    task: InferenceTask
    model: ModelRef
    resume: tuple[int, ...] = ()
    spent: Spent = field(default_factory=Spent, compare=False)


class LoadedEngine(Protocol):
    """A model in memory. Raises ``EngineFailed`` when the engine dies, ``InvalidRequest`` for the caller's mistakes."""

    context_length: int
    slots: int
    size: int
    """Bytes in memory, estimated."""

    size_vram: int

    def can_resume(self, job: Job) -> bool:
        """Whether ``Job.resume`` would give a correct continuation; otherwise the job must be replayed."""

    def generate(self, job: Job) -> AsyncGenerator[Piece | Finish, None]:
        """Closing the generator (``aclose``) cancels the generation and frees its slot."""

    async def embed(self, task: InferenceTask) -> Embeddings: ...

    async def rerank(self, task: InferenceTask) -> Ranks:
        """How well each of the task's inputs answers its prompt."""

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        """``special``: as a prompt, with what the model wants at its start and control tokens read as such."""

    async def detokenize(self, ids: Sequence[int]) -> str:
        """Bytes that are no character become U+FFFD. Raises ``InvalidRequest`` for ids that are no tokens."""

    def failure(self) -> str | None:
        """Why this model can run nothing more (its process died), or None."""

    async def close(self) -> None:
        """Free the memory. Safe to call twice."""


class Engine(Protocol):
    name: EngineName

    async def load(self, spec: LoadSpec) -> LoadedEngine:
        """Raises ``ModelLoadFailed``."""


@dataclass(frozen=True)
class Upstream:
    """An OpenAI-compatible server and the names it answers to."""

    pattern: str
    base_url: str
    api_key: str = field(default="", repr=False)
    model: str = ""
    """The upstream's name for it; empty: as asked."""

    capabilities: tuple[str, ...] = ("completion", "embedding", "tools")
    """What its models can do: the protocol does not tell."""
