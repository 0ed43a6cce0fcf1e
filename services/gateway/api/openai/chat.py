"""POST /v1/chat/completions, as a batch asks for it: the answer as a whole."""

from typing import Any, Final

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import Frame, Logprob, StreamEnd, TopLogprob
from libs.common.errors import InvalidRequest
from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.capabilities import check_model
from services.gateway.api.ollama.images import check_images
from services.gateway.api.ollama.options import resolve_options
from services.gateway.api.ollama.request import MOST_TOP_LOGPROBS
from services.gateway.api.ollama.tools import read_tools
from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.api.openai import wire
from services.gateway.api.openai.messages import read_messages, shown_calls

HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    "stream": (False,),
    "n": (1,),
    "logit_bias": ({},),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "audio": (),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "prediction": (),
    "web_search_options": (),
}


async def chat_completions(call: Call) -> Response:
    body = Fields(call.body, "ChatCompletionRequest")
    wire.refuse_what_is_not_here(body, HARMLESS)
    messages, think, logprobs = read_messages(body), wire.read_effort(body), body.flag("logprobs", False)
    images = [image for message in messages for image in message.images]
    await check_images(images)
    tools = () if body.raw("tool_choice") == "none" else read_tools(body)
    model = await wire.find_model(call, body.text("model"))
    check_model(model, body.text("model"), "chat", thinking=bool(think), tools=bool(tools), images=bool(images))
    longest = body.integer("max_completion_tokens") or body.integer("max_tokens")
    task = InferenceTask(
        kind="chat",
        messages=messages,
        tools=tools,
        format=wire.read_response_format(body),
        think=think,
        logprobs=logprobs,
        top_logprobs=_top_logprobs(body) if logprobs else 0,
        options=resolve_options(model, wire.read_options(body, num_predict=longest)),
    )
    frame, end = await whole_answer(call, model, task)
    return JsonAnswer(_completion(body.text("model"), frame, end))


def _top_logprobs(body: Fields) -> int:
    count = body.integer("top_logprobs") or 0
    if not 0 <= count <= MOST_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MOST_TOP_LOGPROBS}")
    return count


def _completion(model: str, frame: Frame, end: StreamEnd) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": frame.text}
    if frame.thinking:
        message["reasoning"] = frame.thinking
    if frame.tool_calls:
        message["tool_calls"] = shown_calls(frame.tool_calls)
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": wire.finish_reason(end, calls=bool(frame.tool_calls)),
        **({"logprobs": {"content": [_logprob(each) for each in frame.logprobs]}} if frame.logprobs else {}),
    }
    return {
        "id": f"chatcmpl-{frame.request_id}",
        "object": "chat.completion",
        "created": wire.created(),
        "model": model,
        "system_fingerprint": wire.FINGERPRINT,
        "choices": [choice],
        "usage": wire.usage(end),
    }


def _logprob(entry: Logprob) -> dict[str, Any]:
    return {**_token(entry), "top_logprobs": [_token(other) for other in entry.top]}


def _token(entry: Logprob | TopLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.data)}
