"""POST /v1/completions. The model's template is applied to texts, as Ollama does; token ids are taken as they are."""

from typing import Final

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask
from libs.common.errors import InvalidRequest
from services.gateway.api.answer import whole_answers
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.capabilities import check_model
from services.gateway.api.openai import wire
from services.gateway.api.openai.answers import Answer
from services.gateway.api.openai.text_answer import TextChunks, whole_choices, without_thoughts
from services.gateway.api.openai.texts import Tokens, read_texts
from services.gateway.api.sse import stream_events

MOST_CHOICES: Final = 64
"""Of all prompts."""

MOST_LOGPROBS: Final = 5


async def completions(call: Call) -> Response:
    body = Fields(call.body, "CompletionRequest")
    prompts = _prompts(body)
    n = wire.read_count(body, "n", MOST_CHOICES // len(prompts))
    wire.refuse_what_is_not_here(body, {"best_of": (1, n)})
    stream, with_usage = wire.read_stream(body)
    before, suffix, logprobs = _echoed(body, prompts, n), body.text("suffix"), _logprobs(body)
    options = wire.read_options(body, num_predict=wire.read_longest(body, "max_tokens"))
    bias, name = wire.read_logit_bias(body), body.text("model")
    model = await wire.find_model(call, name)
    check_model(model, name, "generate", suffix=bool(suffix))
    task = InferenceTask(
        kind="generate",
        suffix=suffix,
        logprobs=logprobs is not None,
        top_logprobs=logprobs or 0,
        options=wire.sampling(model, options, bias),
    )
    tasks = [choice for prompt in prompts for choice in wire.choices(_asking(task, prompt), n)]
    answer = Answer("cmpl", "text_completion", name, n)
    if stream:
        return await stream_events(call, model, tasks, TextChunks(answer, before, with_usage=with_usage))
    answers = await whole_answers(call, model, tasks, without_thoughts)
    return answer.whole(answers, whole_choices(answers, before))


def _prompts(body: Fields) -> list[str] | list[Tokens]:
    given = body.raw("prompt")
    if given is None or given == "" or (isinstance(given, list) and (not given or "" in given)):
        raise InvalidRequest("prompt is required", param="prompt")
    prompts = read_texts(given, "prompt", MOST_CHOICES)
    if body.text("suffix") and not isinstance(prompts[0], str):
        raise InvalidRequest("'suffix' is not supported with a prompt of token ids", param="suffix")
    return prompts


def _asking(task: InferenceTask, prompt: str | Tokens) -> InferenceTask:
    asked = {"prompt": prompt} if isinstance(prompt, str) else {"raw": True, "context": prompt}
    return task.model_copy(update=asked)


def _echoed(body: Fields, prompts: list[str] | list[Tokens], n: int) -> list[str]:
    """What stands before the answer of each choice."""
    if not body.flag("echo", False):
        return [""] * len(prompts) * n
    texts = [prompt for prompt in prompts if isinstance(prompt, str) for _ in range(n)]
    if not texts or body.raw("logprobs") is not None:
        raise InvalidRequest("'echo' is not supported with logprobs or a prompt of token ids", param="echo")
    return texts


def _logprobs(body: Fields) -> int | None:
    """How many alternatives to tell of each token; None: nothing of the kind."""
    count = body.integer("logprobs")
    if count is not None and not 0 <= count <= MOST_LOGPROBS:
        raise InvalidRequest(f"logprobs must be between 0 and {MOST_LOGPROBS}", param="logprobs")
    return count
