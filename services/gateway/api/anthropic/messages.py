"""POST /v1/messages and POST /v1/messages/count_tokens"""

from starlette.responses import Response

from libs.common.errors import UnsupportedByModel
from services.gateway.api.answer import whole_answer
from services.gateway.api.anthropic import shown
from services.gateway.api.anthropic.events import Events
from services.gateway.api.anthropic.request import read_request
from services.gateway.api.door import Call
from services.gateway.api.openai.wire import json_answer
from services.gateway.api.sse import stream_events
from services.gateway.estimate import estimate


async def create(call: Call) -> Response:
    asked = await read_request(call)
    if asked.stream:
        return await stream_events(call, asked.model, [asked.task], Events(asked))
    frame, end = await whole_answer(call, asked.model, asked.task)
    return json_answer(shown.message(asked, frame, end))


async def count_tokens(call: Call) -> Response:
    """The prompt is rendered where the model is. How long an upstream makes it, nobody can know: that is estimated."""
    asked = await read_request(call, to_be_answered=False)
    rendered = asked.task.model_copy(update={"debug_render_only": True})
    try:
        _, end = await whole_answer(call, asked.model, rendered)
        length = end.prompt_length
    except UnsupportedByModel:
        length = estimate(asked.task, asked.model).prompt
    return json_answer({"input_tokens": length})
