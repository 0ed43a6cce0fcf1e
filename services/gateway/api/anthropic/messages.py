"""POST /v1/messages and POST /v1/messages/count_tokens"""

from starlette.responses import Response

from services.gateway.api.answer import whole_answer
from services.gateway.api.anthropic import shown
from services.gateway.api.anthropic.events import Events
from services.gateway.api.anthropic.request import read_request
from services.gateway.api.door import Call
from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.api.sse import stream_events
from services.gateway.estimate import estimate


async def create(call: Call) -> Response:
    asked = await read_request(call)
    if asked.stream:
        return await stream_events(call, asked.model, [asked.task], Events(asked))
    frame, end = await whole_answer(call, asked.model, asked.task)
    return JsonAnswer(shown.message(asked, frame, end))


async def count_tokens(call: Call) -> Response:
    """The prompt is rendered where the model is. Where only an upstream can do that, it is an estimate."""
    asked = await read_request(call, to_be_answered=False)
    rendered = asked.task.model_copy(update={"debug_render_only": True})
    _, end = await whole_answer(call, asked.model, rendered)
    return JsonAnswer({"input_tokens": end.prompt_length or estimate(asked.task, asked.model).prompt})
