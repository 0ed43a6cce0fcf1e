"""The neutral inference request every dialect is parsed into, and values shared by the contracts."""

from typing import Any, Literal

from pydantic import Field

from libs.common.contracts.message import Value

Kind = Literal["chat", "generate", "embed", "load", "tokenize", "detokenize", "rerank"]
Priority = Literal["interactive", "batch", "idle"]
"""``batch`` waits until nobody interactive does, or long enough; ``idle`` takes only what nobody else wants."""

EngineName = Literal["llama_cpp", "openai_http", "echo"]
OutputFormat = Literal["json"] | dict[str, Any] | None
ToolChoice = Literal["auto", "required"]
"""Whether the model may call a tool, or must. Who must not call any is offered none."""

Think = bool | Literal["low", "medium", "high", "max"] | None


class ModelDetails(Value):
    """What clients show about a model; Ollama's ``details``."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int = 0
    embedding_length: int = 0


class ToolFunction(Value):
    name: str
    arguments: dict[str, Any] = {}
    index: int = 0


class ToolCall(Value):
    id: str = ""
    function: ToolFunction


class ChatMessage(Value):
    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


class ModelRef(Value):
    """A name resolved: everything scheduler and worker need to run the model, so that neither has to ask."""

    name: str = Field(description="display name with its tag, as smollm2:135m")
    digest: str = Field(description="sha256 of the manifest, 64 hex digits; of the name for models without one")
    engine: EngineName
    weights: str | None = Field(None, description="blob digest of the GGUF, sha256:<64 hex>")
    projector: str | None = Field(None, description="blob digest of the GGUF that reads images")
    adapters: tuple[str, ...] = Field((), description="blob digests of LoRA adapters, as GGUF")
    size: int = Field(0, description="bytes of all layers")
    kv_bytes_per_token: int = Field(0, description="of its attention cache, for each token of context; 0: not known")
    capabilities: tuple[str, ...] = ("completion",)
    context_length: int = Field(0, description="trained length in tokens; 0 if unknown")
    parameters: dict[str, Any] = Field({}, description="the model's default options")
    system: str = ""
    template: str | None = Field(None, description="Go template of a template layer; None: the GGUF's Jinja template")
    messages: tuple[ChatMessage, ...] = Field(
        (), description="a conversation stored with the model, before every other"
    )
    details: ModelDetails = ModelDetails()
    organization_id: str = Field("default", description="whose it is")
    shared: bool = Field(False, description="all organizations see it")

    @property
    def runner(self) -> str:
        """What is in memory for this model: names that differ only in prompts and parameters share it."""
        return "+".join(filter(None, (self.weights, self.projector, *self.adapters))) or self.digest


class SamplingOptions(Value):
    """Ollama's options, resolved (defaults, then the model's, then the request's)."""

    num_ctx: int = Field(0, description="0: the worker's default, capped at the trained length")
    num_predict: int = Field(-1, description="-1: until the model stops")
    num_keep: int = 4
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = Field(0, description="never random here: the gateway draws one if the client sent none")
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = Field((), description="token id and what is added to its logit")


class InferenceTask(Value):
    """What the worker does. The scheduler carries it without looking inside."""

    kind: Kind
    messages: tuple[ChatMessage, ...] = ()
    prompt: str = Field("", description="of a generate call; the text to tokenize; the query to rank documents by")
    suffix: str = Field("", description="what comes after the text to be inserted")
    images: tuple[str, ...] = Field((), description="of a generate call: base64; a chat has them in its messages")
    system: str | None = None
    template: str | None = Field(None, description="a Go template instead of the model's own")
    context: tuple[int, ...] = Field(
        (), description="token ids of an earlier generate call to continue from; those to detokenize"
    )
    raw: bool = False
    inputs: tuple[str, ...] = Field((), description="texts to embed; documents to rank")
    truncate: bool = True
    shift: bool = True
    dimensions: int | None = None
    normalise: bool = Field(True, description="embeddings of length one; if not, as the model made them")
    format: OutputFormat = None
    tools: tuple[dict[str, Any], ...] = Field((), description="in the shape of Ollama and OpenAI")
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = Field(True, description="several calls in one answer")
    think: Think = Field(None, description="None: if the model can")
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = Field(
        False, description="render the prompt, generate nothing; without truncate, of any length"
    )
    options: SamplingOptions = SamplingOptions()
    keep_alive_seconds: float | None = Field(None, description="None: leave as it is; negative: for ever")


class RunningRequest(Value):
    request_id: str
    epoch: int
    runner: str = Field("", description="``ModelRef.runner``")
    priority: Priority = "interactive"
    preemptible: bool = Field(False, description="it has got on well enough to go on later elsewhere")
    prompt_tokens: int = Field(0, description="worked on so far; 0: not known yet")
    completion_tokens: int = Field(0, description="made so far, those of earlier attempts among them")


class EndedRequest(Value):
    """What journal and ledger both keep of a request. Times are seconds since the epoch."""

    request_id: str
    organization_id: str
    user_id: str | None = None
    key_id: str | None = None
    model: str
    kind: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    accepted_at: float
    finished_at: float
