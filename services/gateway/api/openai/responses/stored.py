"""/v1/responses/{id}: what is kept of a response, read, followed, cancelled, deleted."""

from typing import Final

from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.openai import wire
from services.gateway.api.openai.files import a_list, known_caller
from services.gateway.api.openai.queries import read_id, read_limit, read_query
from services.gateway.api.openai.responses.resumed import follow
from services.gateway.responses import background, keeping

LISTED: Final = 20
MOST_LISTED: Final = 100
HINTS: Final = {"include", "include[]", "include[0]", "include_obfuscation"}
"""Nothing is left out that they could ask for."""


async def retrieve(call: Call) -> Response:
    query = read_query(call.scope, {"stream", "starting_after", *HINTS})
    opened = await keeping.find(call.ctx, *_whose(call))
    if query.get("stream", "false").lower() != "true":
        if "starting_after" in query:
            raise InvalidRequest("'starting_after' goes with stream=true", param="starting_after")
        return wire.json_answer(opened.response)
    row = opened.row
    if not (row.background and row.streams):
        raise InvalidRequest(
            "only a response created with background=true and stream=true can be streamed; "
            "retrieve it without 'stream'",
            param="stream",
        )
    if row.ended and await keeping.told(call.ctx, row) is None:
        raise InvalidRequest("its stream is gone; retrieve the response without 'stream'", param="stream")
    return await follow(call.ctx, row, opened.reply, _starting_after(query.get("starting_after", "-1")))


def _starting_after(text: str) -> int:
    if text == "-1":
        return -1
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidRequest("'starting_after' must be the number of an event", param="starting_after")
    return int(text)


async def delete(call: Call) -> Response:
    caller, response_id = _whose(call)
    await keeping.delete(call.ctx, caller, response_id)
    return wire.json_answer({"id": response_id, "object": "response", "deleted": True})


async def cancel(call: Call) -> Response:
    return wire.json_answer((await background.cancel(call.ctx, *_whose(call))).response)


async def input_items(call: Call) -> Response:
    query = read_query(call.scope, {"after", "limit", "order", *HINTS})
    items = keeping.input_items(await keeping.find(call.ctx, *_whose(call)))
    if query.get("order", "desc") == "desc":
        items.reverse()
    elif query["order"] != "asc":
        raise InvalidRequest("'order' must be asc or desc", param="order")
    if (after := query.get("after")) is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise InvalidRequest(f"'after': there is no item '{after[:100]}'", param="after")
        items = items[ids.index(after) + 1 :]
    limit = read_limit(query, LISTED, MOST_LISTED)
    return wire.json_answer(a_list(items[:limit], more=len(items) > limit))


def _whose(call: Call) -> tuple[Identity, str]:
    return known_caller(call), read_id(call.scope["path_params"]["response_id"])
