"""POST /v1/responses: answered now, or in the background."""

from dataclasses import replace

from starlette.responses import Response

from services.gateway.api.answer import whole_answer
from services.gateway.api.door import Call
from services.gateway.api.openai import wire
from services.gateway.api.openai.responses.events import Events
from services.gateway.api.openai.responses.preparing import prepare, resolved
from services.gateway.api.openai.responses.request import Asked, read
from services.gateway.api.openai.responses.resumed import follow
from services.gateway.api.openai.responses.shown import Reply
from services.gateway.api.openai.responses.story import PREFIX
from services.gateway.api.sse import stream_events
from services.gateway.responses import background, keeping
from services.gateway.responses.gathering import Gathering


async def create(call: Call) -> Response:
    asked = await resolved(call, read(call.body))
    kept = keeping.is_kept(call.ctx, call.caller, asked)
    if asked.background:
        return await _later(call, asked)
    return await _now(call, asked, kept=kept)


async def _now(call: Call, asked: Asked, *, kept: bool) -> Response:
    ctx, caller, created_at = call.ctx, call.caller, wire.created()
    body = {**call.body, "input": asked.input}

    def reply_of(request_id: str) -> Reply:
        return Reply(asked, PREFIX + request_id, created_at, kept)

    async def keep(reply: Reply, response: dict[str, object]) -> None:
        response["store"] = await keeping.keep(ctx, caller, reply, body, response)

    model, task = await prepare(call, asked)
    gathering = Gathering(ctx, reply_of, keep if kept else None)
    gathered = replace(call, ctx=replace(ctx, start_inference=gathering))
    if asked.stream:
        return await stream_events(gathered if kept else call, model, [task], Events(reply_of))
    await whole_answer(gathered, model, task)
    return wire.json_answer(gathering.response)


async def _later(call: Call, asked: Asked) -> Response:
    """What is wrong with it is said now. Whoever follows its stream reads the log, as those do who come later."""
    await prepare(call, asked)
    body = {**call.body, "input": asked.input}
    row = await background.begin(call.ctx, call.caller, asked, body, call.deadline_seconds)
    call.name_request(row.request_id)
    reply = keeping.reply_of(row, body)
    if asked.stream:
        return await follow(call.ctx, row, reply)
    return wire.json_answer(reply.shown("queued", []))


async def input_tokens(call: Call) -> Response:
    """POST /v1/responses/input_tokens: how long the prompt of such a response is."""
    model, task = await prepare(call, await resolved(call, read(call.body)))
    _, end = await whole_answer(call, model, task.model_copy(update={"debug_render_only": True}))
    return wire.json_answer({"object": "response.input_tokens", "input_tokens": end.prompt_length})
