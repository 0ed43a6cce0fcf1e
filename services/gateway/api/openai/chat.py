"""POST /v1/chat/completions"""

from typing import Any, Final

from starlette.responses import Response

from libs.common.contracts.inference import InferenceTask
from libs.common.errors import InvalidRequest
from services.gateway.api.answer import whole_answers
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.capabilities import check_model
from services.gateway.api.ollama.request import MOST_TOP_LOGPROBS
from services.gateway.api.openai import wire
from services.gateway.api.openai.answers import Answer
from services.gateway.api.openai.chat_answer import ChatChunks, whole_choices
from services.gateway.api.openai.messages import have_images, read_messages, with_images
from services.gateway.api.openai.tools import read_tool_use
from services.gateway.api.sse import stream_events

MOST_CHOICES: Final = 16

HARMLESS: Final[dict[str, tuple[Any, ...]]] = {
    "store": (False,),
    "modalities": (["text"],),
    "audio": (),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "moderation": (),
    "prediction": (),
    "web_search_options": (),
}


async def chat_completions(call: Call) -> Response:
    body = Fields(call.body, "ChatCompletionRequest")
    wire.refuse_what_is_not_here(body, HARMLESS)
    stream, with_usage = wire.read_stream(body)
    n, bias = wire.read_count(body, "n", MOST_CHOICES), wire.read_logit_bias(body)
    messages, tools = read_messages(body, urls=call.ctx.settings.image_urls), read_tool_use(body)
    think, output, (logprobs, top) = wire.read_effort(body), wire.read_response_format(body), _logprobs(body)
    options = wire.read_options(body, num_predict=wire.read_longest(body, "max_completion_tokens", "max_tokens"))
    images = await have_images(messages)
    name = body.text("model")
    model = await wire.find_model(call, name)
    check_model(model, name, "chat", thinking=bool(think), tools=bool(tools.offered), images=images)
    task = InferenceTask(
        kind="chat",
        messages=await with_images(call, messages),
        tools=tools.offered,
        tool_choice=tools.choice,
        parallel_tool_calls=tools.parallel,
        format=output,
        think=think,
        logprobs=logprobs,
        top_logprobs=top,
        options=wire.sampling(model, options, bias),
    )
    tasks = wire.choices(task, n)
    if stream:
        chunks = ChatChunks(Answer("chatcmpl", "chat.completion.chunk", name, n), with_usage=with_usage)
        return await stream_events(call, model, tasks, chunks)
    answers = await whole_answers(call, model, tasks)
    return Answer("chatcmpl", "chat.completion", name, n).whole(answers, whole_choices(answers))


def _logprobs(body: Fields) -> tuple[bool, int]:
    """(whether to tell them, how many alternatives)"""
    wanted, count = body.flag("logprobs", False), body.integer("top_logprobs") or 0
    if not 0 <= count <= MOST_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MOST_TOP_LOGPROBS}", param="top_logprobs")
    if count and not wanted:
        raise InvalidRequest("'top_logprobs' is only allowed when 'logprobs' is true", param="top_logprobs")
    return wanted, count
