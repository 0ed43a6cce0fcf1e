"""POST /v1/completions, as a batch asks for it: as a whole. The model's template is applied, as Ollama does."""

from typing import Any, Final

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask
from libs.common.errors import InvalidRequest
from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.capabilities import check_model
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.api.openai import wire

HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    "stream": (False,),
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (0,),
    "logit_bias": ({},),
}


async def completions(call: Call) -> Response:
    body = Fields(call.body, "CompletionRequest")
    wire.refuse_what_is_not_here(body, HARMLESS)
    prompt, suffix = body.text("prompt"), body.text("suffix")
    if not prompt:
        raise InvalidRequest("prompt is required")
    model = await wire.find_model(call, body.text("model"))
    check_model(model, body.text("model"), "generate", suffix=bool(suffix))
    options = wire.read_options(body, num_predict=body.integer("max_tokens"))
    task = InferenceTask(kind="generate", prompt=prompt, suffix=suffix, options=resolve_options(model, options))
    frame, end = await whole_answer(call, model, task)
    return JsonAnswer(
        {
            "id": f"cmpl-{frame.request_id}",
            "object": "text_completion",
            "created": wire.created(),
            "model": body.text("model"),
            "system_fingerprint": wire.FINGERPRINT,
            "choices": [{"index": 0, "text": frame.text, "finish_reason": wire.finish_reason(end)}],
            "usage": wire.usage(end),
        }
    )
